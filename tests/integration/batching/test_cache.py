"""A result cache: outcomes of inputs, remembered for a time and within bounds."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from umbel_batching import replies
from umbel_batching.census import job_info
from umbel_batching.lanes import Lane, new_uid
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import NO_REPLY, Priority, State, tail
from umbel_batching.values import NewJob

if TYPE_CHECKING:
    from tests.integration.batching.conftest import MakeStation, Station

CLIENT = "c" * 16
DONE = State.SUCCEEDED


def same_key(station: Station, payload: bytes) -> str:
    return station.keys.same + hashlib.sha1(payload, usedforsecurity=False).hexdigest()


def body(station: Station, uid: str) -> bytes:
    return bytes(station.record(uid).body)


def counts(station: Station) -> dict[str, int]:
    names = ("submitted", "succeeded", "failed", "cancelled", "shared", "bytes")
    return {name: count for name in names if (count := station.counter(name))}


def caching(make_station: MakeStation, **policy: int) -> Station:
    given: dict[str, Any] = {"max_batch_size": 8, "max_wait_ms": 0, "cache_ttl_s": 60, **policy}
    return make_station(BatchPolicy(**given))


def test_a_remembered_outcome_answers_at_submit(make_station: MakeStation) -> None:
    station = caching(make_station)
    (first,) = station.submit()
    claimed = station.claim()
    station.settle(claimed, body=b"out")
    pubsub = station.client.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe(f"{station.namespace}:reply:{CLIENT}")
    (second,) = station.submit(meta=b"\x81\xa1a\x01", reply=CLIENT, priority=Priority.HIGH)
    record = station.record(second)
    assert (record.state, bytes(record.body), record.attempts) == (DONE, b"out", 0)
    assert (record.metadata, record.reply, record.priority) == ({"a": 1}, CLIENT, Priority.HIGH)
    assert (record.batch, record.finished_ms) == (claimed.batch, record.created_ms)
    assert 0 < station.client.ttl(station.keys.job + second) <= 3600
    assert station.waiting() == []
    assert counts(station) == {"submitted": 2, "succeeded": 2, "shared": 1}
    (fate,) = station.runner.run(station.calls.fates(station.slot, [second]))
    assert fate is not None
    assert (fate.state, fate.finished_ms) == (DONE, record.finished_ms)
    told = job_info(
        "x", "digits@1", record, station.client.hgetall(station.keys.batch + claimed.batch)
    )
    assert told.flush_reason == "cache"
    message = None
    while message is None:
        message = pubsub.get_message(timeout=10)
    assert replies.read(message["data"]) == ([], [f"{station.slot}-{second}"])
    pubsub.close()
    assert station.states([first]) == [DONE]


def test_a_remembered_outcome_answers_at_claim(make_station: MakeStation) -> None:
    """The job was waiting already when the outcome came in."""
    station = caching(make_station, max_batch_size=1)
    station.submit()
    claimed = station.claim()
    (twin,) = station.submit()
    station.settle(claimed, body=b"out")
    following = station.claim()
    assert (following.uids, following.left) == ([], 0)
    assert body(station, twin) == b"out"
    assert station.record(twin).batch == claimed.batch
    assert counts(station) == {"submitted": 2, "succeeded": 2, "shared": 1}


def test_a_key_is_held_for_a_job_answered_from_memory(make_station: MakeStation) -> None:
    station = caching(make_station)
    station.submit()
    station.drain()
    uid = station.submit_keyed("a")
    assert station.states([uid]) == [DONE]
    assert 3600 < station.client.ttl(station.shared.once + uid) <= 3600 + 3600
    station.submit_keyed("a")
    assert station.counter("submitted") == 2


def test_a_submit_answered_from_memory_can_be_repeated(make_station: MakeStation) -> None:
    station = caching(make_station)
    station.submit()
    station.drain()
    payloads = [b"payload", b"other", b"payload"]
    jobs = [NewJob(new_uid(), tail(NO_REPLY, b"") + payload) for payload in payloads]
    call = station.calls.submit(station.lane, jobs)
    assert [station.runner.run(call).depth for _ in range(2)] == [1, 1]
    assert station.counter("submitted") == 1 + 3
    assert station.waiting() == [jobs[1].uid]
    assert station.counter("bytes") == station.client.strlen(station.keys.job + jobs[1].uid)


def test_failures_are_not_remembered(make_station: MakeStation) -> None:
    station = caching(make_station)
    (bad,) = station.submit()
    station.settle(station.claim(), failing=[bad])
    (again,) = station.submit()
    assert station.claim().uids == [again]


def test_a_cancelled_job_s_outcome_is_remembered_for_others(make_station: MakeStation) -> None:
    station = caching(make_station)
    (gone,) = station.submit()
    claimed = station.claim()
    station.cancel(gone)
    station.settle(claimed, body=b"out")
    (uid,) = station.submit()
    assert station.states([gone, uid]) == [State.CANCELLED, DONE]


def test_a_zombie_s_outcome_is_not_remembered(make_station: MakeStation) -> None:
    station = caching(make_station)
    station.submit()
    zombie = station.claim()
    station.lose(zombie)
    (fresh,) = station.submit(payload=b"payload")
    assert not station.settle(zombie, body=b"wrong")
    assert station.states([fresh]) == [State.QUEUED]
    station.drain()
    assert body(station, fresh) == b"done"


def test_what_is_remembered_is_forgotten_after_its_time(make_station: MakeStation) -> None:
    station = caching(make_station)
    station.submit()
    station.drain()
    key = same_key(station, b"payload")
    assert 0 < station.client.ttl(key) <= 60
    assert 0 < station.client.ttl(station.keys.cached) <= 60
    station.client.delete(key)
    (uid,) = station.submit()
    assert station.claim().uids == [uid]


def remembered(station: Station, count: int) -> list[bytes]:
    """Which of the payloads ``0`` to ``count - 1`` are remembered."""
    payloads = [b"%d" % at for at in range(count)]
    return [payload for payload in payloads if station.client.exists(same_key(station, payload))]


def compute_one_by_one(station: Station, count: int, body: bytes) -> None:
    for at in range(count):
        station.submit(payload=b"%d" % at)
        station.settle(station.claim(), body=body)
        for member in station.client.zrange(station.keys.cached, 0, -1):
            station.client.zincrby(station.keys.cached, -10, member)


def test_a_bounded_number_of_outcomes_is_remembered(make_station: MakeStation) -> None:
    station = caching(make_station, cache_entries=3)
    compute_one_by_one(station, 5, b"out")
    assert remembered(station, 5) == [b"2", b"3", b"4"]
    assert station.client.zcard(station.keys.cached) == 3
    assert station.counter("cached_bytes") == 3 * (33 + 3)


def test_a_bounded_number_of_bytes_is_remembered(make_station: MakeStation) -> None:
    station = caching(make_station, cache_bytes=2 * (33 + 100))
    compute_one_by_one(station, 4, b"x" * 100)
    assert remembered(station, 4) == [b"2", b"3"]
    assert station.counter("cached_bytes") == 2 * (33 + 100)


def test_an_outcome_larger_than_all_room_is_not_remembered(make_station: MakeStation) -> None:
    station = caching(make_station, cache_bytes=50)
    compute_one_by_one(station, 2, b"x" * 100)
    assert remembered(station, 2) == []
    assert station.client.exists(station.keys.cached) == 0
    assert station.counter("cached_bytes") == 0


@pytest.mark.parametrize("again", [b"out", b"another"])
def test_an_outcome_remembered_anew_is_counted_once(
    make_station: MakeStation, again: bytes
) -> None:
    """Its entry ran out, while its place on the list of outcomes is swept only now and then."""
    station = caching(make_station)
    for round_body in (b"out", again, again):
        station.client.delete(same_key(station, b"payload"))
        for member in station.client.zrange(station.keys.cached, 0, -1):
            station.client.zincrby(station.keys.cached, -61_000, member)
        station.submit()
        station.settle(station.claim(), body=round_body)
        assert station.client.get(same_key(station, b"payload"))[33:] == round_body
        assert station.client.zcard(station.keys.cached) == 1
        assert station.counter("cached_bytes") == 33 + len(round_body)


def test_versions_do_not_share(make_station: MakeStation) -> None:
    first = caching(make_station)
    first.submit()
    first.drain()
    second = caching(make_station)
    second.lane = Lane(model="digits", version="2", policy=second.lane.policy)
    second.slot = second.lane.slot
    (uid,) = second.submit()
    assert second.states([uid]) == [State.QUEUED]


def test_a_lane_that_shares_leaves_only_keys_with_a_ttl(
    make_station: MakeStation, namespace: str
) -> None:
    station = caching(make_station)
    for at in range(6):
        station.submit(5, payload=b"%d" % (at % 3))
        if at % 2:
            station.lose(station.claim())
        station.drain()
    permanent = {
        station.shared.lanes,
        station.keys.lane,
        station.shared.wake,
        station.shared.signal,
    }
    keys = {key.decode() for key in station.client.scan_iter(match=f"{namespace}*", count=1_000)}
    assert {key for key in keys if station.client.ttl(key) == -1} <= permanent
    assert counts(station)["succeeded"] == 30
