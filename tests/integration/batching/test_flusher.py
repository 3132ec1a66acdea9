"""The flusher against a real Redis: who is woken, when, and what happens when things break."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from redis.exceptions import RedisError

from umbel_batching import flusher as flusher_module
from umbel_batching.bell import Bell
from umbel_batching.flusher import Drain
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import State
from umbel_config.connect import connect
from umbel_config.server_binary import find_server

if TYPE_CHECKING:
    from tests.conftest import NoKeyLeaks, WaitUntil
    from tests.integration.batching.conftest import Flushers, Hints, MakeStation

HOUR_MS = 3_600_000
LAZY = BatchPolicy(max_batch_size=4, max_wait_ms=HOUR_MS)
EAGER = BatchPolicy(max_batch_size=4, max_wait_ms=0)


@pytest.fixture
def endless_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No hint counts as lost while the test runs."""
    monkeypatch.setattr(flusher_module, "PATIENCE_MS", HOUR_MS)


@pytest.fixture
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hint counts as lost soon."""
    monkeypatch.setattr(flusher_module, "PATIENCE_MS", 20)


def test_a_full_lane_is_flushed_at_once_and_another_is_not(
    make_station: MakeStation, flushers: Flushers, hints: Hints, wait_until: WaitUntil
) -> None:
    lazy, other = make_station(LAZY), make_station(LAZY, model="other")
    with flushers.running(hints):
        lazy.submit(3)
        other.submit(4)
        wait_until(lambda: len(hints) == 1, "the full lane is flushed")
        assert hints.lanes == ["other@1"]
        lazy.submit(1)
        wait_until(lambda: len(hints) == 2, "the lane that became full is flushed")
    assert hints.drains[1].lane == "digits@1"
    assert hints.drains[1].queue == "umbel"
    assert [batch.reason for batch in lazy.drain(hints.drains[1].token)] == ["size"]


def test_a_lane_is_flushed_when_its_oldest_job_has_waited(
    make_station: MakeStation, flushers: Flushers, hints: Hints, wait_until: WaitUntil
) -> None:
    station = make_station(BatchPolicy(max_batch_size=4, max_wait_ms=30))
    with flushers.running(hints):
        station.submit(3)
        wait_until(lambda: hints, "the lane is flushed")
    (batch,) = station.drain(hints.drains[0].token)
    assert (batch.reason, len(batch.uids)) == ("timeout", 3)
    assert batch.started_ms - batch.oldest_ms >= 30


def _is_over(end: float) -> bool:
    return time.monotonic() > end


def _holds(hints: Hints, count: int) -> bool:
    return len(hints) >= count


def test_an_idle_flusher_is_not_busy(
    make_station: MakeStation,
    flushers: Flushers,
    hints: Hints,
    wait_until: WaitUntil,
    command_count: Callable[[], int],
) -> None:
    """Neither with an empty Redis nor beside a lane that waits."""
    station = make_station(LAZY)
    with flushers.running(hints):
        for jobs in (0, 1):
            station.submit(jobs)
            before, end = command_count(), time.monotonic() + 1.0
            wait_until(partial(_is_over, end), "a second passes")
            assert command_count() - before < 20


def test_jobs_are_drained_as_they_come(
    make_station: MakeStation,
    flushers: Flushers,
    wait_until: WaitUntil,
    namespace: str,
    no_key_leaks: NoKeyLeaks,
) -> None:
    station = make_station(EAGER)
    permanent = [station.shared.lanes, station.keys.lane, station.shared.signal]

    def work(drain: Drain) -> None:
        station.drain(drain.token)

    with no_key_leaks(namespace, permanent), flushers.running(work):
        uids = [station.submit()[0] for _ in range(50)]
        wait_until(lambda: station.states(uids) == [State.SUCCEEDED] * 50, "all are done")
        wait_until(lambda: not station.client.exists(station.shared.wake), "the lane is at rest")
    assert station.counter("succeeded") == 50
    assert station.counter("bytes") == 0


def test_two_flushers_send_nothing_twice(
    make_station: MakeStation,
    flushers: Flushers,
    hints: Hints,
    wait_until: WaitUntil,
    endless_patience: None,
) -> None:
    stations = [make_station(LAZY, model=f"m{at}") for at in range(10)]
    stations[0].announce(3)
    with flushers.running(hints, hints, hints):
        for station in stations:
            station.submit(12)
        wait_until(lambda: len(hints) == 30, "three drains for each lane")
        marker = make_station(EAGER, model="marker")
        marker.submit()
        wait_until(lambda: "marker@1" in hints.lanes, "the flushers went on")
    assert len(hints) == 31
    assert len({drain.token for drain in hints.drains}) == 31


def test_a_new_flusher_uses_every_free_slot_at_once(
    make_station: MakeStation, flushers: Flushers, hints: Hints, endless_patience: None
) -> None:
    station = make_station(LAZY)
    station.announce(5)
    station.submit(100)
    assert flushers.make(hints).turn() == len(hints) == 5


def test_no_more_drains_are_sent_than_workers_have_slots(
    make_station: MakeStation, flushers: Flushers, hints: Hints, endless_patience: None
) -> None:
    station = make_station(LAZY)
    station.announce(2)
    station.submit(40)
    flusher = flushers.make(hints)
    assert flusher.turn() == 2
    first, second = (drain.token for drain in hints.drains)
    station.claim(first)
    station.claim(second)
    station.runner.run(station.calls.rearm(station.slot, now=True))
    assert flusher.turn() == 0
    station.runner.run(station.calls.release(station.slot, first))
    assert flusher.turn() == 1


def test_a_lane_without_a_worker_raises_an_alarm(
    make_station: MakeStation,
    flushers: Flushers,
    hints: Hints,
    wait_until: WaitUntil,
    little_patience: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(flusher_module, "_WORKERS_FRESH_S", 0.02)
    caplog.set_level("INFO", "umbel.flusher")
    station = make_station(EAGER)
    flusher = flushers.make(hints)

    def said() -> list[str]:
        flusher.turn()
        return [text for text in caplog.messages if "worker serves" in text and "digits@1" in text]

    station.submit(3)
    alarm = (
        "lane digits@1: 3 jobs wait, and no worker serves queue umbel. "
        "Start one: umbel worker --queues umbel"
    )
    assert said() == [alarm]
    assert len(hints) == 1, "the wake-up is sent all the same: a worker may be about to start"
    wait_until(lambda: said() and len(hints) > 2, "it looks again")
    assert said() == [alarm]
    station.announce(1)
    wait_until(lambda: len(said()) > 1, "the worker is noticed")
    assert said() == [alarm, "lane digits@1: a worker serves queue umbel again"]


def test_a_wake_up_that_could_not_be_sent_is_sent_again(
    make_station: MakeStation,
    flushers: Flushers,
    hints: Hints,
    wait_until: WaitUntil,
    little_patience: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures = iter([OSError("broker away"), RuntimeError("no route")])

    def dispatch(drain: Drain) -> None:
        failure = next(failures, None)
        if failure is not None:
            raise failure
        hints(drain)

    station = make_station(EAGER)
    with flushers.running(dispatch):
        station.submit()
        wait_until(lambda: hints, "the third attempt succeeds")
    assert "broker away" in caplog.text
    assert "no route" in caplog.text


def test_a_lost_hint_is_sent_again(
    make_station: MakeStation,
    flushers: Flushers,
    hints: Hints,
    wait_until: WaitUntil,
    little_patience: None,
) -> None:
    station = make_station(EAGER)
    with flushers.running(hints):
        station.submit()
        wait_until(lambda: len(hints) >= 3, "it is sent again and again")
    assert len({drain.token for drain in hints.drains}) == len(hints)


def test_a_lane_that_fell_off_the_list_is_found(
    make_station: MakeStation,
    flushers: Flushers,
    hints: Hints,
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flusher_module, "_SWEEP_S", 0.05)
    station = make_station(EAGER)
    station.submit()
    station.client.delete(station.shared.wake, station.shared.signal)
    with flushers.running(hints):
        wait_until(lambda: hints, "the lane is found")


def test_a_batch_whose_worker_fell_silent_waits_again(
    make_station: MakeStation,
    flushers: Flushers,
    hints: Hints,
    wait_until: WaitUntil,
    endless_patience: None,
) -> None:
    station = make_station(EAGER)
    uids = station.submit(3)
    lost = station.claim(lease_ms=100)
    with flushers.running(hints):
        wait_until(lambda: hints, "somebody else is asked")
    assert station.states(uids) == [State.QUEUED] * 3
    assert not station.settle(lost)
    assert [uid for batch in station.drain() for uid in batch.uids] == uids


def test_reaping_costs_no_hint(
    make_station: MakeStation, flushers: Flushers, hints: Hints, endless_patience: None
) -> None:
    """The flush that finds a lost lease notes drains as sent; they must be sent indeed."""
    station = make_station(EAGER)
    station.announce(4)
    station.submit(12)
    station.client.zadd(station.keys.leases, {station.claim().batch: 1})
    station.client.delete(station.keys.drains)
    station.runner.run(station.calls.rearm(station.slot, now=True))
    assert flushers.make(hints).turn() == len(hints) == 3
    sent = station.client.zrange(station.keys.sent, 0, -1)
    assert sorted(sent) == sorted(drain.token.encode() for drain in hints.drains)


def test_a_flusher_survives_dropped_connections(
    make_station: MakeStation, flushers: Flushers, hints: Hints, wait_until: WaitUntil
) -> None:
    station = make_station(EAGER)
    with flushers.running(hints):
        for count in (1, 2, 3):
            station.client.client_kill_filter(_type="normal", skipme=True)
            station.submit()
            wait_until(partial(_holds, hints, count), "it works again")
            station.drain(hints.drains[-1].token)


@contextmanager
def _server(folder: Path) -> Iterator[None]:
    """A Redis that keeps every write, killed at the end."""
    command = [find_server().path, "--port", "0", "--unixsocket", folder / "r.sock"]
    command += ["--dir", folder, "--appendonly", "yes", "--appendfsync", "always"]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen([*map(str, command)], stdout=log, stderr=log)
    try:
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False


def test_a_flusher_survives_a_redis_that_is_killed(
    make_station: MakeStation,
    flushers: Flushers,
    hints: Hints,
    wait_until: WaitUntil,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flusher_module, "_RECONNECT_S", 0.05)
    folder = tmp_path_factory.mktemp("r")
    url = f"unix://{folder / 'r.sock'}"
    station = make_station(LAZY, url=url)
    with connect(url, retries=0) as probe, flushers.running(hints, url=url):
        with _server(folder):
            wait_until(lambda: _answers(probe), "Redis is up")
            uids = station.submit(3)
            claimed = station.claim()
            assert len(claimed.uids) == 3
            uids += station.submit(3)
        assert not _answers(probe)
        with _server(folder):
            wait_until(lambda: _answers(probe), "Redis is up again")
            assert station.settle(claimed)
            station.runner.run(station.calls.release(station.slot, "drain"))
            uids += station.submit(1)
            wait_until(lambda: hints, "the flusher is back")
            station.drain(hints.drains[0].token)
            assert station.states(uids) == [State.SUCCEEDED] * 7


def test_a_damaged_lane_does_not_hold_up_the_others(
    make_station: MakeStation, flushers: Flushers, hints: Hints, wait_until: WaitUntil
) -> None:
    damaged, healthy = make_station(LAZY, model="damaged"), make_station(LAZY)
    damaged.submit(4)
    damaged.client.hset(damaged.keys.lane, "max_batch_size", "many")
    with flushers.running(hints):
        healthy.submit(4)
        wait_until(lambda: "digits@1" in hints.lanes, "the healthy lane is flushed")
        damaged.client.hset(damaged.keys.lane, "max_batch_size", 4)
        wait_until(lambda: "damaged@1" in hints.lanes, "the repaired lane is flushed")


def test_stop_ends_a_flusher_that_sleeps(flushers: Flushers, hints: Hints) -> None:
    flusher = flushers.make(hints)
    thread = threading.Thread(target=flusher.run)
    thread.start()
    flusher.stop()
    thread.join(timeout=20)
    assert not thread.is_alive()


def test_a_bell_that_is_stopped_leaves_the_ring_to_others(
    store_redis: redis.Redis, namespace: str, redis_url: str, wait_until: WaitUntil
) -> None:
    key = f"{namespace}:signal"
    with connect(redis_url, purpose="blocking") as client:
        bell = Bell(client, key)
        bell.wait(0)
        wait_until(lambda: store_redis.info("clients")["blocked_clients"] > 0, "the bell listens")
        bell.stop()
        store_redis.zadd(key, {"!": 0})
        bell.join()
    assert store_redis.zcard(key) == 1
