"""Identical inputs: computed once while they are in flight, and remembered if the lane says so."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from umbel_batching import replies
from umbel_batching.census import job_info, lane_statuses
from umbel_batching.dead_letters import recorded_batch
from umbel_batching.lanes import Lane, new_uid
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import _SPANS, NO_REPLY, Priority, State, tail
from umbel_batching.values import NewJob

if TYPE_CHECKING:
    from tests.integration.batching.conftest import MakeStation, Station

CLIENT = "c" * 16
DONE = State.SUCCEEDED
#: Jobs that may join one running batch.
MOST_JOINED = 1_000


@pytest.fixture
def sharing(make_station: MakeStation) -> Station:
    """A lane whose identical inputs share one compute."""
    return make_station(BatchPolicy(max_batch_size=8, max_wait_ms=0, single_flight=True))


def caching(make_station: MakeStation, **policy: int) -> Station:
    given: dict[str, Any] = {"max_batch_size": 8, "max_wait_ms": 0, "cache_ttl_s": 60, **policy}
    return make_station(BatchPolicy(**given))


def same_key(station: Station, payload: bytes) -> str:
    return station.keys.same + hashlib.sha1(payload, usedforsecurity=False).hexdigest()


def body(station: Station, uid: str) -> bytes:
    return bytes(station.record(uid).body)


def counts(station: Station) -> dict[str, int]:
    names = ("submitted", "succeeded", "failed", "cancelled", "shared", "bytes")
    return {name: count for name in names if (count := station.counter(name))}


def test_lanes_share_nothing_unless_asked(make_station: MakeStation) -> None:
    station = make_station(BatchPolicy(max_batch_size=8))
    uids = station.submit(4)
    assert station.claim().uids == uids
    assert not list(station.client.scan_iter(match=f"{station.keys.same}*"))


def test_twins_in_one_batch_are_computed_once(sharing: Station) -> None:
    leader, *twins = sharing.submit(4)
    (other,) = sharing.submit(payload=b"other")
    claimed = sharing.claim()
    assert claimed.uids == [leader, other]
    assert sharing.states(twins) == [State.RUNNING] * 3
    assert sharing.settle(claimed, body=b"out")
    assert sharing.states([leader, *twins, other]) == [DONE] * 5
    assert [body(sharing, uid) for uid in twins] == [b"out"] * 3
    assert {sharing.record(uid).batch for uid in [leader, *twins]} == {claimed.batch}
    assert counts(sharing) == {"submitted": 5, "succeeded": 5, "shared": 3}
    assert not sharing.client.exists(same_key(sharing, b"payload"))
    (status,) = lane_statuses(sharing.client, sharing.namespace)
    assert (status.shared, status.waiting, status.waiting_bytes) == (3, 0, 0)


def test_a_twin_joins_the_running_batch_of_another_drain(sharing: Station) -> None:
    (leader,) = sharing.submit()
    running = sharing.claim("a")
    (twin,) = sharing.submit()
    (fresh,) = sharing.submit(payload=b"other")
    claimed = sharing.claim("b")
    assert (claimed.uids, claimed.left) == ([fresh], 0)
    assert sharing.record(twin).batch == running.batch
    assert sharing.settle(claimed, body=b"b")
    assert sharing.states([twin]) == [State.RUNNING]
    assert sharing.settle(running, body=b"a")
    assert [body(sharing, uid) for uid in (leader, twin, fresh)] == [b"a", b"a", b"b"]
    assert counts(sharing) == {"submitted": 3, "succeeded": 3, "shared": 1}


def test_a_claim_of_twins_alone_is_empty_and_ends_the_drain(sharing: Station) -> None:
    sharing.submit()
    running = sharing.claim("a")
    twins = sharing.submit(3)
    claimed = sharing.claim("b")
    assert (claimed.uids, claimed.left, claimed.reason) == ([], 0, "")
    assert [token.decode() for token in sharing.client.zrange(sharing.keys.drains, 0, -1)] == ["a"]
    assert sharing.settle(running)
    assert sharing.states(twins) == [DONE] * 3


def test_different_inputs_are_not_shared(sharing: Station) -> None:
    uids = [sharing.submit(payload=payload)[0] for payload in (b"", b"a", b"aa", b"A", b"\x00")]
    assert sharing.claim().uids == uids


def test_a_twin_keeps_what_is_its_own(sharing: Station) -> None:
    (leader,) = sharing.submit(meta=b"\x81\xa1a\x01")
    own: dict[str, Any] = {"meta": b"\x81\xa1b\x02", "reply": CLIENT, "priority": Priority.LOW}
    (twin,) = sharing.submit(timeout_ms=60_000, **own)
    deadline = sharing.record(twin).deadline_ms
    pubsub = sharing.client.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe(f"{sharing.namespace}:reply:{CLIENT}")
    sharing.settle(sharing.claim(), body=b"out")
    record = sharing.record(twin)
    assert (record.metadata, record.reply, record.priority) == ({"b": 2}, CLIENT, Priority.LOW)
    assert (record.state, bytes(record.body), record.attempts) == (DONE, b"out", 1)
    assert record.deadline_ms == deadline
    assert record.finished_ms >= record.created_ms
    assert sharing.client.exists(sharing.keys.deadlines) == 0
    assert sharing.record(leader).metadata == {"a": 1}
    message = None
    while message is None:
        message = pubsub.get_message(timeout=10)
    assert replies.read(message["data"]) == ([], [f"{sharing.slot}-{twin}"])
    pubsub.close()


def test_twins_fail_with_the_job_that_was_computed(sharing: Station) -> None:
    leader, twin = sharing.submit(2)
    claimed = sharing.claim()
    sharing.settle(claimed, failing=[leader])
    assert sharing.states([leader, twin]) == [State.FAILED] * 2
    assert body(sharing, twin) == body(sharing, leader)
    assert counts(sharing) == {"submitted": 2, "failed": 2, "shared": 1}
    assert sharing.client.zcard(sharing.keys.dead) == 2
    for uid in (leader, twin):
        assert sharing.runner.run(sharing.calls.replay(sharing.slot, uid)).done
    first = sharing.claim()
    assert first.uids == [leader]
    sharing.settle(first)
    sharing.settle(sharing.claim())
    assert sharing.states([leader, twin]) == [DONE] * 2


def test_a_recorded_batch_holds_what_was_computed(sharing: Station) -> None:
    """Run again, it must be the same batch: twins were not part of the forward."""
    leader, twin = sharing.submit(2)
    (other,) = sharing.submit(payload=b"other")
    claimed = sharing.claim()
    sharing.settle(claimed, failing=[leader])
    recorded = recorded_batch(sharing.client, sharing.namespace, claimed.batch)
    assert recorded is not None
    assert recorded.job_ids == [f"{sharing.slot}-{uid}" for uid in (leader, other)]
    assert recorded.payloads == [b"payload", b"other"]
    assert recorded.missing == 0
    assert sharing.states([twin]) == [State.FAILED]


@pytest.mark.parametrize("joined", [False, True])
def test_twins_of_a_cancelled_job_get_its_outcome_all_the_same(
    sharing: Station, joined: bool
) -> None:
    (leader,) = sharing.submit()
    twins = [] if joined else sharing.submit(2)
    claimed = sharing.claim()
    sharing.cancel(leader)
    if joined:
        twins = sharing.submit(2)
        assert sharing.claim("b").uids == []
    assert sharing.settle(claimed, body=b"out")
    assert sharing.states([leader, *twins]) == [State.CANCELLED, DONE, DONE]
    expected = {"submitted": 3, "succeeded": 2, "cancelled": 1, "shared": 2}
    assert counts(sharing) == expected


@pytest.mark.parametrize("joins_later", [False, True])
def test_twins_whose_job_was_not_computed_after_all_wait_again(
    sharing: Station, joins_later: bool
) -> None:
    """The claim is repeated after its job was cancelled: the worker never sees that input."""
    (leader,) = sharing.submit()
    twins = [] if joins_later else sharing.submit(2, timeout_ms=60_000)
    (other,) = sharing.submit(payload=b"other")
    batch = new_uid()
    sharing.claim(batch=batch)
    sharing.cancel(leader)
    again = sharing.claim(batch=batch)
    assert again.uids == [other]
    if joins_later:
        twins = sharing.submit(2, timeout_ms=60_000)
        sharing.claim("b")
    assert sharing.settle(again)
    assert sharing.states(twins) == [State.QUEUED] * 2
    assert sharing.waiting() == twins
    assert sharing.client.zcard(sharing.keys.deadlines) == 2
    assert [sharing.record(uid).attempts for uid in twins] == [0, 0]
    assert len(sharing.drain()) == 1
    assert sharing.states(twins) == [DONE] * 2
    assert counts(sharing) == {"submitted": 4, "succeeded": 3, "cancelled": 1, "shared": 1}


def test_a_cancelled_twin_stays_cancelled(sharing: Station) -> None:
    leader, twin = sharing.submit(2)
    claimed = sharing.claim()
    assert sharing.cancel(twin) == (True, State.RUNNING)
    assert sharing.settle(claimed)
    assert sharing.states([leader, twin]) == [DONE, State.CANCELLED]
    assert counts(sharing) == {"submitted": 2, "succeeded": 1, "cancelled": 1}


def test_a_forgotten_twin_stays_forgotten(sharing: Station) -> None:
    leader, twin = sharing.submit(2)
    claimed = sharing.claim()
    assert sharing.runner.run(sharing.calls.forget(sharing.slot, twin)) is State.RUNNING
    assert sharing.settle(claimed)
    assert sharing.states([leader, twin]) == [DONE, None]


@pytest.mark.parametrize("back", ["lost", "handed back", "settled"])
@pytest.mark.parametrize("twin_before", [False, True])
def test_a_key_used_anew_is_once_in_the_batch_that_it_was_in_before(
    sharing: Station, back: str, twin_before: bool
) -> None:
    """The job was forgotten while it ran, and the same input comes again under its key."""
    if twin_before:
        sharing.submit()
    uid = sharing.submit_keyed("a")
    sharing.submit(payload=b"other")
    running = sharing.claim("a")
    sharing.runner.run(sharing.calls.forget(sharing.slot, uid))
    assert sharing.submit_keyed("a") == uid
    assert sharing.claim("b").uids == []
    if back == "lost":
        sharing.lose(running)
    elif back == "handed back":
        sharing.hand_back("a")
    else:
        sharing.settle(running)
    sharing.drain()
    assert sharing.states([uid]) == [DONE]
    total = 3 + twin_before
    ended = {name: sharing.counter(name) for name in ("submitted", "succeeded", "cancelled")}
    assert ended == {"submitted": total, "succeeded": total - 1, "cancelled": 1}
    assert sharing.counter("bytes") == 0


def test_a_lost_batch_gives_its_twins_back_too(sharing: Station) -> None:
    leader, twin = sharing.submit(2)
    claimed = sharing.claim("a")
    (joined,) = sharing.submit()
    sharing.claim("b")
    assert sharing.lose(claimed).again == 3
    assert sharing.waiting() == [leader, twin, joined]
    assert {len(sharing.record(uid).history) for uid in (leader, twin, joined)} == {1}
    assert not sharing.settle(claimed)
    # They were lost with a worker: each must be computed by itself, lest one takes others along.
    assert [batch.uids for batch in sharing.drain()] == [[leader], [twin], [joined]]
    assert counts(sharing) == {"submitted": 3, "succeeded": 3}


def test_a_batch_handed_back_gives_its_twins_back_too(sharing: Station) -> None:
    leader, twin = sharing.submit(2)
    claimed = sharing.claim("a")
    (joined,) = sharing.submit()
    sharing.claim("b")
    assert sharing.hand_back("a") == 3
    assert sharing.waiting() == [leader, twin, joined]
    assert [sharing.record(uid).attempts for uid in (leader, twin, joined)] == [0, 0, 0]
    assert not sharing.settle(claimed)
    assert [batch.uids for batch in sharing.drain()] == [[leader]]
    assert sharing.states([leader, twin, joined]) == [DONE] * 3


def test_a_claim_repeated_is_the_same_and_takes_no_twins_twice(sharing: Station) -> None:
    uids = sharing.submit(3)
    (other,) = sharing.submit(payload=b"other")
    batch = new_uid()
    first, second = sharing.claim(batch=batch), sharing.claim(batch=batch)
    assert first == second
    assert first.uids == [uids[0], other]
    assert sharing.settle(second)
    assert sharing.settle(first)
    assert counts(sharing) == {"submitted": 4, "succeeded": 4, "shared": 2}


def test_the_next_of_its_kind_is_computed_anew_when_nothing_is_remembered(sharing: Station) -> None:
    for _ in range(2):
        (uid,) = sharing.submit()
        claimed = sharing.claim()
        assert claimed.uids == [uid]
        sharing.settle(claimed)


def test_as_many_may_join_as_one_settling_can_bear(make_station: MakeStation) -> None:
    policy = BatchPolicy(max_batch_size=500, max_wait_ms=0, single_flight=True)
    station = make_station(policy)
    station.submit()
    running = station.claim("a")
    uids = station.submit(MOST_JOINED + 700)
    claims = [station.claim("b") for _ in range(4)]
    (second,) = [claimed for claimed in claims if claimed.uids]
    assert len(second.uids) == 1
    assert station.settle(running, body=b"1")
    assert station.settle(second, body=b"2")
    assert station.states(uids) == [DONE] * len(uids)
    bodies = [body(station, uid) for uid in uids]
    assert (bodies.count(b"1"), bodies.count(b"2")) == (MOST_JOINED, 700)


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


def test_jobs_with_keys_of_their_own_share_too(sharing: Station) -> None:
    uids = [sharing.submit_keyed(key) for key in "abc"]
    claimed = sharing.claim()
    assert len(claimed.uids) == 1
    sharing.settle(claimed)
    assert sharing.states(uids) == [DONE] * 3
    for uid in uids:
        assert sharing.client.ttl(sharing.shared.once + uid) > 0


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


def test_an_overdue_job_joins_nobody(sharing: Station) -> None:
    sharing.submit()
    running = sharing.claim("a")
    (late,) = sharing.submit(timeout_ms=60_000)
    start, end = _SPANS["deadline"]
    sharing.client.setrange(sharing.keys.job + late, start, b"1".rjust(end - start, b"0"))
    assert sharing.claim("b").uids == []
    assert sharing.states([late]) == [State.EXPIRED]
    assert sharing.settle(running)
    assert counts(sharing) == {"submitted": 2, "succeeded": 1}


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


@pytest.mark.parametrize("back", ["lost", "handed back"])
def test_a_key_used_anew_may_join_its_own_old_batch(sharing: Station, back: str) -> None:
    uid = sharing.submit_keyed("a")
    old = sharing.claim()
    sharing.runner.run(sharing.calls.forget(sharing.slot, uid))
    assert sharing.submit_keyed("a") == uid
    assert sharing.claim("other").uids == []
    again = sharing.lose(old).again if back == "lost" else sharing.hand_back()
    assert again == 1
    assert sharing.counter("bytes") == sharing.client.strlen(sharing.keys.job + uid)
    assert sharing.settle(sharing.claim())
    assert sharing.states([uid]) == [DONE]
    assert sharing.counter("bytes") == 0
