"""A Redis that is out of memory refuses new jobs as a whole, and loses nothing of the old ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from redis.exceptions import OutOfMemoryError, ResponseError

from umbel_batching.lanes import keyed_uid, new_uid
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import _SPANS, NO_REPLY, State, tail
from umbel_batching.values import NewJob
from umbel_config.embedded import EmbeddedRedis

if TYPE_CHECKING:
    from tests.integration.batching.conftest import MakeStation, Station

POLICY = BatchPolicy(max_batch_size=8, max_wait_ms=0)


@pytest.fixture
def full_station(make_station: MakeStation, tmp_path: Path) -> Iterator[Station]:
    """A lane on a server of its own with jobs that wait, jobs that run, and no memory left."""
    with EmbeddedRedis.start(tmp_path / "full") as server:
        station = make_station(POLICY, url=server.url)
        station.submit(64, payload=b"x" * 4_096)
        yield station


def _fill(client: redis.Redis) -> None:
    """Leaves the server less memory than it uses."""
    client.config_set("maxmemory", 1)
    with pytest.raises(OutOfMemoryError):
        client.set("one", "more")


def test_a_full_store_refuses_jobs_and_still_lets_them_out(full_station: Station) -> None:
    station = full_station
    first = station.claim("a")
    _fill(station.client)
    with pytest.raises((OutOfMemoryError, ResponseError), match="maxmemory"):
        station.submit()
    renew = station.calls.renew(station.slot, batch=first.batch, token="a", lease_ms=90_000)
    assert station.runner.run(renew)
    cancel = station.calls.cancel(station.slot, first.uids[0])
    assert station.runner.run(cancel) == (True, State.RUNNING)
    assert station.settle(first)
    assert station.states(first.uids[1:]) == [State.SUCCEEDED] * 7


def test_a_full_store_takes_lost_batches_back(full_station: Station) -> None:
    station = full_station
    lost = station.claim("a")
    station.client.zadd(station.keys.leases, {lost.batch: 1})
    _fill(station.client)
    reap = station.calls.reap(station.slot, limit=9, max_attempts=3)
    assert station.runner.run(reap).again == 8
    assert station.runner.run(station.calls.rearm(station.slot, now=True))
    flush = station.calls.flush(station.slot, slots=2, patience_ms=1_000, tokens=["t1", "t2"])
    assert station.runner.run(flush).sent == 1
    assert station.runner.run(station.calls.release(station.slot, "a")) == 64
    assert len(station.drain()) == 9
    announce = station.calls.announce("umbel", "w", slots=1, stale_ms=1_000)
    assert station.runner.run(announce) == 1


def _dump(client: Any) -> dict[bytes, Any]:
    """All data of the server, but for the clocks of what it is asked to expire."""
    return {key: client.dump(key) for key in client.scan_iter(count=1_000)}


def _plain(_: Station) -> list[NewJob]:
    return [NewJob(new_uid(), tail(NO_REPLY, b"") + b"payload", 60_000) for _ in range(3)]


def _keyed(_: Station) -> list[NewJob]:
    text = tail(NO_REPLY, b"") + b"payload"
    return [NewJob(keyed_uid("digits", key), text, 0, "f" * 32) for key in "abc"]


@pytest.mark.parametrize("make", [_plain, _keyed])
@pytest.mark.parametrize("known_lane", [True, False])
def test_a_refused_submit_leaves_nothing_half_done(
    make_station: MakeStation, tmp_path: Path, make: Callable[[Any], list[NewJob]], known_lane: bool
) -> None:
    with EmbeddedRedis.start(tmp_path / "full") as server:
        station = make_station(POLICY, url=server.url)
        if known_lane:
            station.submit(4)
        call = station.calls.submit(station.lane, make(station))
        _fill(station.client)
        before = _dump(station.client)
        with pytest.raises((OutOfMemoryError, ResponseError), match="maxmemory"):
            station.runner.run(call)
        assert _dump(station.client) == before
        station.client.config_set("maxmemory", 0)
        assert station.runner.run(call).known == {}


def test_a_known_key_is_found_in_a_full_store(full_station: Station) -> None:
    uid = full_station.submit_keyed("a")
    _fill(full_station.client)
    assert full_station.submit_keyed("a") == uid


def test_a_full_store_lets_waiting_jobs_go(full_station: Station) -> None:
    station = full_station
    first, *_ = station.submit(2, timeout_ms=60_000)
    late = station.waiting()[-1]
    start, end = _SPANS["deadline"]
    station.client.setrange(station.keys.job + late, start, b"1".rjust(end - start, b"0"))
    station.client.zadd(station.keys.deadlines, {late: 1})
    keyed = station.submit_keyed("a")
    _fill(station.client)
    assert station.runner.run(station.calls.expire(station.slot, 100)) == 1
    assert station.cancel(keyed) == (True, State.QUEUED)
    assert station.runner.run(station.calls.forget(station.slot, first)) is State.QUEUED
    assert station.states([late, keyed, first]) == [State.EXPIRED, State.CANCELLED, None]
    fates = station.runner.run(station.calls.fates(station.slot, [late, keyed, first]))
    told = [fate and fate.state for fate in fates]
    assert told == [State.EXPIRED, State.CANCELLED, State.CANCELLED]
    assert len(station.drain()) == 8


def test_a_full_store_lets_running_jobs_go(full_station: Station) -> None:
    station = full_station
    _fill(station.client)
    handed, orphaned, failing = station.claim("a"), station.claim("b"), station.claim("c")
    assert len(handed.uids) == len(orphaned.uids) == 8
    assert station.runner.run(station.calls.forget(station.slot, handed.uids[0])) is State.RUNNING
    assert station.hand_back("a") == 7
    orphan = station.calls.orphan(station.slot, owner="b", cause="killed by SIGKILL")
    assert station.runner.run(orphan) == 1
    reap = station.calls.reap(station.slot, limit=9, max_attempts=1)
    assert station.runner.run(reap).failed == 8
    assert station.settle(failing, failing=failing.uids[:3])
    assert station.states(orphaned.uids) == [State.FAILED] * 8
    assert station.states(failing.uids) == [State.FAILED] * 3 + [State.SUCCEEDED] * 5
    dead = station.calls.replay(station.slot, failing.uids[0])
    assert station.runner.run(dead).done
    assert station.runner.run(station.calls.drop(station.slot, failing.uids[1]))
    drained = [uid for batch in station.drain() for uid in batch.uids]
    assert len(drained) == 64 - 1 - 8 - 8 + 1
    assert station.counter("bytes") == 0


def test_a_full_store_shares_outcomes(make_station: MakeStation, tmp_path: Path) -> None:
    policy = BatchPolicy(max_batch_size=4, max_wait_ms=0, cache_ttl_s=60)
    with EmbeddedRedis.start(tmp_path / "full") as server:
        station = make_station(policy, url=server.url)
        uids = station.submit(8)
        _fill(station.client)
        first = station.claim("a")
        assert station.claim("b").uids == []
        assert station.settle(first)
        assert station.states(uids) == [State.SUCCEEDED] * 8


def test_the_flusher_s_questions_are_answered_by_a_full_store(full_station: Station) -> None:
    station = full_station
    _fill(station.client)
    tokens = [new_uid() for _ in range(4)]
    flush = station.calls.flush(station.slot, slots=3, patience_ms=1_000, tokens=tokens)
    assert station.runner.run(flush).sent == 3
    assert station.runner.run(station.calls.due(5)).next_ms > 0
    assert station.runner.run(station.calls.rearm(station.slot, now=False))
    assert station.runner.run(station.calls.heads(station.slot, station.waiting()[:2]))


def test_new_jobs_leave_room_for_the_messages_that_bring_the_old_ones_out(
    make_station: MakeStation, tmp_path: Path
) -> None:
    with EmbeddedRedis.start(tmp_path / "short") as server:
        station = make_station(POLICY, url=server.url)
        station.submit(8, payload=b"x" * 4_096)
        used = station.client.info("memory")["used_memory"]
        limit = used + 3 * 2**20
        station.client.config_set("maxmemory", limit)
        with pytest.raises((OutOfMemoryError, ResponseError), match="kept for what waits"):
            _submit_a_thousand_times(station)
        station.client.rpush("somebody-elses-list", b"x" * 100_000)
        left = limit - station.client.info("memory")["used_memory"]
        assert left > limit / 10
        assert len(station.drain()) > 1
        station.client.config_set("maxmemory", limit * 3)
        # The verdict on memory is remembered for some milliseconds, unless much is sent.
        station.submit(8, payload=b"x" * 10_000)


def _submit_a_thousand_times(station: Station) -> None:
    for _ in range(1_000):
        station.submit(8, payload=b"x" * 4_096)
