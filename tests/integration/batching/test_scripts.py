"""The scripts on a real server: memory, races, a full store, and what they leave behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from redis.exceptions import OutOfMemoryError, ResponseError

from umbel_batching.policy import BatchPolicy
from umbel_batching.record import State
from umbel_batching.scripts import AsyncRunner
from umbel_config.connect import connect_async
from umbel_config.embedded import EmbeddedRedis

if TYPE_CHECKING:
    from tests.conftest import NoKeyLeaks
    from tests.integration.batching.conftest import MakeStation, Station

POLICY = BatchPolicy(max_batch_size=8, max_wait_ms=0)


@pytest.fixture
def station(make_station: MakeStation) -> Station:
    """A lane of batches of eight."""
    return make_station(POLICY)


def test_a_queued_job_takes_little_room(make_station: MakeStation) -> None:
    station = make_station(BatchPolicy(max_queue=20_000))
    payload = b"x" * 256
    station.submit(1, payload=payload)
    before = _used(station)
    for _ in range(10):
        station.submit(1_000, payload=payload)
    per_job = (_used(station) - before) / 10_000 - len(payload)
    assert 0 < per_job <= 600


def _used(station: Station) -> int:
    return int(station.client.info("memory")["used_memory"])


def test_a_drained_lane_leaves_only_the_documented_keys(
    station: Station, namespace: str, no_key_leaks: NoKeyLeaks
) -> None:
    permanent = [station.shared.lanes, station.keys.lane]
    bounded = [station.shared.wake, station.shared.signal]
    with no_key_leaks(namespace, permanent + bounded):
        station.announce(2)
        uids = station.submit(30)
        for uid in uids[5:9]:
            station.runner.run(station.calls.cancel(station.slot, uid))
        lost = station.claim()
        station.client.zadd(station.keys.leases, {lost.batch: 1})
        station.runner.run(station.calls.reap(station.slot, limit=9, max_attempts=3))
        station.drain()
    assert station.counter("bytes") == 0
    assert station.client.zcard(station.shared.wake) <= 1
    assert station.client.zcard(station.shared.signal) <= 1
    left = {key.decode() for key in station.client.scan_iter(match=f"{namespace}*", count=1000)}
    jobs = {station.keys.job + uid for uid in uids}
    batches = {key for key in left if key.startswith(station.keys.batch)}
    workers = {f"{namespace}:workers:umbel"}
    assert left <= {*permanent, *bounded} | jobs | batches | workers


def test_every_key_has_its_documented_type(station: Station, namespace: str) -> None:
    station.announce(1)
    station.submit(20)
    station.claim()
    tokens = ["t1", "t2"]
    station.runner.run(station.calls.flush(station.slot, slots=9, patience_ms=1_000, tokens=tokens))
    keys = station.keys
    types = {
        key.decode(): station.client.type(key).decode()
        for key in station.client.scan_iter(match=f"{namespace}*", count=1000)
        if not key.decode().startswith((keys.job, keys.batch))
    }
    shared = station.shared
    assert types == {
        **dict.fromkeys([shared.lanes, keys.lane], "hash"),
        **dict.fromkeys([shared.wake, shared.signal, f"{namespace}:workers:umbel"], "zset"),
        **dict.fromkeys([keys.waiting, keys.leases, keys.sent, keys.drains], "zset"),
    }


def test_many_workers_claim_each_job_once(station: Station, make_station: MakeStation) -> None:
    uids = station.submit(800)
    claimed: list[str] = []
    workers = [make_station(POLICY) for _ in range(6)]

    def work(worker: Station, token: str) -> None:
        for batch in worker.drain(token):
            claimed.extend(batch.uids)

    threads = [
        threading.Thread(target=work, args=(worker, f"drain{at}"))
        for at, worker in enumerate(workers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(claimed) == sorted(uids)
    assert (station.counter("succeeded"), station.counter("batches")) == (800, 100)


def test_a_lane_whose_records_are_gone_is_emptied(station: Station) -> None:
    for uid in station.submit(3):
        station.client.delete(station.keys.job + uid)
    claimed = station.claim()
    assert (claimed.uids, claimed.left) == ([], 0)
    assert station.client.exists(station.keys.waiting, station.keys.drains) == 0


def test_the_largest_batch_runs(make_station: MakeStation) -> None:
    station = make_station(BatchPolicy(max_batch_size=4096, max_wait_ms=0))
    uids = station.submit(10_000)
    lost = station.claim()
    assert len(lost.uids) == 4096
    station.client.zadd(station.keys.leases, {lost.batch: 1})
    reaped = station.runner.run(station.calls.reap(station.slot, limit=9, max_attempts=3))
    assert reaped.again == 4096
    assert [len(batch.uids) for batch in station.drain()] == [2048, 2048, 4096, 1808]
    assert station.states(uids) == [State.SUCCEEDED] * 10_000


def test_scripts_are_sent_again_to_a_server_that_forgot_them(station: Station) -> None:
    for _ in range(2):
        station.client.script_flush()
        station.submit(3)
        station.client.script_flush()
        assert len(station.drain()) == 1


async def test_the_asynchronous_runner_reads_the_same(station: Station, redis_url: str) -> None:
    uids = station.submit(3)
    async with connect_async(redis_url) as client:
        states = await AsyncRunner(client).run(station.calls.states(station.slot, uids))
    assert states == [State.QUEUED] * 3


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
