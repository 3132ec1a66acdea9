"""The scripts on a real server: memory, races, and what they leave behind."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from umbel_batching.identity import identify
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import State
from umbel_batching.scripts import AsyncRunner
from umbel_config.connect import connect_async

if TYPE_CHECKING:
    from tests.conftest import NoKeyLeaks, WaitUntil
    from tests.integration.batching.conftest import MakeStation, Station

POLICY = BatchPolicy(max_batch_size=8, max_wait_ms=0)


@pytest.fixture
def station(make_station: MakeStation) -> Station:
    """A lane of batches of eight."""
    return make_station(POLICY)


def test_a_queued_job_takes_little_room(make_station: MakeStation, wait_until: WaitUntil) -> None:
    station = make_station(BatchPolicy(max_queue=20_000))
    payload = b"x" * 256
    station.submit(1, payload=payload)
    before = _used(station, wait_until)
    for _ in range(10):
        station.submit(1_000, payload=payload)
    per_job = (_used(station, wait_until) - before) / 10_000 - len(payload)
    assert 0 < per_job <= 600


def _used(station: Station, wait_until: WaitUntil) -> int:
    """Memory in use, while no append-only file is rewritten: that takes blocks of 10 MB."""

    def rewriting() -> bool:
        return bool(station.client.info("persistence")["aof_rewrite_in_progress"])

    def quiet() -> int:
        if rewriting():
            return 0
        memory = int(station.client.info("memory")["used_memory"])
        return 0 if rewriting() else memory

    return int(wait_until(quiet, "no append-only file is rewritten"))


def test_a_drained_lane_leaves_only_the_documented_keys(
    station: Station, namespace: str, no_key_leaks: NoKeyLeaks
) -> None:
    permanent = [station.shared.lanes, station.keys.lane]
    bounded = [station.shared.wake, station.shared.signal]
    with no_key_leaks(namespace, permanent + bounded):
        station.announce(2)
        uids = station.submit(20) + station.submit(10, timeout_ms=600_000)
        uids.append(station.submit_keyed("a"))
        for uid in uids[5:9]:
            station.runner.run(station.calls.cancel(station.slot, uid))
        lost = station.claim()
        station.client.zadd(station.keys.leases, {lost.batch: 1})
        station.runner.run(station.calls.reap(station.slot, limit=9, max_attempts=3))
        failed = station.claim()
        station.settle(failed, failing=failed.uids[:1])
        station.drain()
    assert station.counter("bytes") == 0
    assert station.client.zcard(station.shared.wake) <= 1
    assert station.client.zcard(station.shared.signal) <= 1
    left = {key.decode() for key in station.client.scan_iter(match=f"{namespace}*", count=1000)}
    jobs = {station.keys.job + uid for uid in uids}
    batches = {key for key in left if key.startswith(station.keys.batch)}
    workers = {f"{namespace}:workers:umbel", f"{namespace}:slots:umbel"}
    keys = station.keys
    kept = {keys.dead, keys.recordings, station.shared.once + uids[-1]}
    kept |= {keys.recording + batch.batch for batch in (lost, failed)}
    kept |= {keys.tomb + uid[:9] for uid in uids}
    assert kept <= left
    assert left == {*permanent, *bounded} & left | jobs | batches | workers | kept


def test_every_key_has_its_documented_type(make_station: MakeStation, namespace: str) -> None:
    policy = BatchPolicy(max_batch_size=8, max_wait_ms=0, single_flight=True)
    station = make_station(policy)
    station.announce(1)
    station.submit(payload=b"first")
    station.claim("a")
    uid = station.submit_keyed("a", payload=b"other")
    failed = station.claim()
    station.settle(failed, failing=failed.uids)
    station.submit(timeout_ms=600_000)
    tokens = ["t1", "t2"]
    station.runner.run(station.calls.flush(station.slot, slots=9, patience_ms=1_000, tokens=tokens))
    identify(station.client, namespace)
    keys, shared = station.keys, station.shared
    types = {
        key.decode(): station.client.type(key).decode()
        for key in station.client.scan_iter(match=f"{namespace}*", count=1000)
        if not key.decode().startswith((keys.job, keys.batch, keys.tomb, keys.same))
    }
    assert types == {
        **dict.fromkeys([shared.lanes, keys.lane, keys.recording + failed.batch], "hash"),
        **dict.fromkeys([shared.wake, shared.signal, f"{namespace}:workers:umbel"], "zset"),
        **dict.fromkeys([keys.waiting, keys.leases, keys.sent, keys.drains], "zset"),
        f"{namespace}:busy:umbel": "zset",
        f"{namespace}:slots:umbel": "string",
        **dict.fromkeys([keys.deadlines, keys.dead, keys.recordings], "zset"),
        **dict.fromkeys([shared.store, shared.once + uid], "string"),
    }
    prefixes = {keys.job: "string", keys.batch: "hash", keys.tomb: "string", keys.same: "string"}
    for prefix, kind in prefixes.items():
        found = list(station.client.scan_iter(match=f"{prefix}*", count=1000))
        assert {station.client.type(key).decode() for key in found} == {kind}


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
