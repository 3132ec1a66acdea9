"""Identical inputs in flight: computed once, whatever befalls the batch that computes them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from umbel_batching import replies
from umbel_batching.census import lane_statuses
from umbel_batching.dead_letters import recorded_batch
from umbel_batching.lanes import new_uid
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import _SPANS, Priority, State

if TYPE_CHECKING:
    from tests.integration.batching.conftest import MakeStation, Station

CLIENT = "c" * 16
DONE = State.SUCCEEDED
#: Jobs that may join one running batch.
MOST_JOINED = 1_000


def same_key(station: Station, payload: bytes) -> str:
    return station.keys.same + hashlib.sha1(payload, usedforsecurity=False).hexdigest()


def body(station: Station, uid: str) -> bytes:
    return bytes(station.record(uid).body)


def counts(station: Station) -> dict[str, int]:
    names = ("submitted", "succeeded", "failed", "cancelled", "shared", "bytes")
    return {name: count for name in names if (count := station.counter(name))}


@pytest.fixture
def sharing(make_station: MakeStation) -> Station:
    """A lane whose identical inputs share one compute."""
    return make_station(BatchPolicy(max_batch_size=8, max_wait_ms=0, single_flight=True))


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


def test_jobs_with_keys_of_their_own_share_too(sharing: Station) -> None:
    uids = [sharing.submit_keyed(key) for key in "abc"]
    claimed = sharing.claim()
    assert len(claimed.uids) == 1
    sharing.settle(claimed)
    assert sharing.states(uids) == [DONE] * 3
    for uid in uids:
        assert sharing.client.ttl(sharing.shared.once + uid) > 0


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
