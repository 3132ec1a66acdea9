"""Idempotency keys: the same key leads to the same job, for as long as anything is kept of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from umbel_batching.lanes import Lane, keyed_uid, new_uid
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import NO_REPLY, State, tail
from umbel_batching.values import Accepted, Known, NewJob
from umbel_config.errors import LaneFull

if TYPE_CHECKING:
    from tests.unit.batching.conftest import Lab

TTL_S, TOMB_S, DEAD_S = 100, 1_000, 10_000
A, B = keyed_uid("digits", "a"), keyed_uid("digits", "b")


def once(lab: Lab, uid: str = A) -> str:
    return lab.shared.once + uid


def ttl(lab: Lab, uid: str = A) -> int:
    return int(lab.client.ttl(once(lab, uid)))


def known(lab: Lab, uid: str = A, *, same: bool = True) -> Known:
    return Known(lab.slot, uid, same)


def test_a_key_names_the_same_job_everywhere() -> None:
    assert keyed_uid("digits", "a") == A
    assert len({A, B, keyed_uid("other", "a"), keyed_uid("digit", "sa")}) == 4
    assert (len(A), A[12], A[16]) == (32, "8", "8")
    assert new_uid()[12] == "7"


def test_a_job_with_a_key_runs_like_any_other(lab: Lab) -> None:
    assert lab.submit_keyed("a", timeout_ms=60_000) == Accepted(1)
    record = lab.record(A)
    assert (record.state, bytes(record.body)) == (State.QUEUED, b"payload")
    assert lab.counter("bytes") == lab.client.strlen(lab.keys.job + A)
    assert lab.client.zscore(lab.keys.deadlines, A) == record.deadline_ms
    assert ttl(lab) == -1
    assert lab.settle(lab.claim())
    assert lab.state(A) is State.SUCCEEDED


def test_the_same_key_again_finds_the_job_and_queues_nothing(lab: Lab) -> None:
    lab.submit_keyed("a")
    assert lab.submit_keyed("a") == Accepted(1, {0: known(lab)})
    lab.claim()
    assert lab.submit_keyed("a") == Accepted(0, {0: known(lab)})
    assert (lab.counter("submitted"), lab.counter("bytes")) == (1, 0)
    assert lab.state(A) is State.RUNNING


def test_another_input_under_the_same_key_is_a_conflict(lab: Lab) -> None:
    lab.submit_keyed("a")
    before = lab.client.dbsize()
    accepted = lab.submit_keyed("b", "a", payload=b"other")
    assert accepted == Accepted(1, {1: known(lab, same=False)})
    assert accepted.conflicts
    assert lab.client.dbsize() == before
    assert lab.client.exists(once(lab, B), lab.keys.job + B) == 0
    assert (lab.counter("submitted"), lab.waiting()) == (1, [A])
    assert not lab.submit_keyed("b", "a").conflicts
    assert lab.waiting() == [A, B]


def test_the_same_key_twice_in_one_call_makes_one_job(lab: Lab) -> None:
    assert lab.submit_keyed("a", "b", "a") == Accepted(2, {2: known(lab)})
    assert sorted(lab.waiting()) == sorted([A, B])
    assert lab.counter("submitted") == 2


def test_one_key_with_two_inputs_in_one_call_is_a_conflict(lab: Lab) -> None:
    text = tail(NO_REPLY, b"")
    jobs = [NewJob(A, text + body, 0, body.hex() * 32) for body in (b"\x01", b"\x02")]
    jobs = [NewJob(job.uid, job.tail, 0, job.fingerprint[:32]) for job in jobs]
    accepted = lab.runner.run(lab.calls.submit(lab.lane, jobs))
    assert accepted.known == {1: known(lab, same=False)}
    assert lab.client.keys() == []


def test_a_call_whose_reply_was_lost_can_be_repeated(lab: Lab) -> None:
    call = lab.keyed_call("a", "b")
    assert lab.runner.run(call) == Accepted(2)
    again = Accepted(2, {0: known(lab), 1: known(lab, B)})
    assert lab.runner.run(call) == again
    lab.settle(lab.claim())
    assert lab.runner.run(call) == Accepted(0, again.known)
    assert (lab.counter("submitted"), lab.counter("bytes")) == (2, 0)


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 0, 2], [0, 2, 1], [1, 2, 0]])
def test_a_repeat_tells_of_known_keys_between_jobs_without(lab: Lab, order: list[int]) -> None:
    """A key that belongs to another version's lane must not be taken for a job of this call."""
    other = Lane(model="digits", version="2", policy=BatchPolicy())
    lab.submit_keyed("a", lane=other)
    elsewhere = Known(other.slot, A, same=True)
    keyed, fresh = lab.keyed_call("a", "b"), NewJob(new_uid(), tail(NO_REPLY, b"") + b"payload")
    fingerprint = keyed.args[-1][:32].decode()
    text = tail(NO_REPLY, b"") + b"payload"
    jobs = [fresh, NewJob(A, text, 0, fingerprint), NewJob(B, text, 0, fingerprint)]
    call = lab.calls.submit(lab.lane, [jobs[at] for at in order])
    place = order.index(1)
    assert lab.runner.run(call) == Accepted(2, {place: elsewhere})
    again = lab.runner.run(call)
    assert (again.depth, again.known[place]) == (2, elsewhere)
    assert set(again.known) <= {place, order.index(2)}
    assert lab.counter("submitted") == 2


def test_a_key_leads_to_the_lane_where_its_job_is(lab: Lab) -> None:
    lab.submit_keyed("a")
    other = Lane(model="digits", version="2", policy=BatchPolicy())
    assert lab.submit_keyed("a", lane=other) == Accepted(0, {0: known(lab)})
    assert lab.client.hgetall(lab.shared.lanes) == {lab.slot.encode(): b"digits@1"}


def test_a_full_lane_takes_no_key(make_lab: type[Lab]) -> None:
    lab = make_lab(BatchPolicy(max_queue=1))
    lab.submit_keyed("a")
    with pytest.raises(LaneFull):
        lab.submit_keyed("b")
    assert lab.client.exists(once(lab, B), lab.keys.job + B) == 0
    assert lab.submit_keyed("a") == Accepted(1, {0: known(lab)})


def end_settle(lab: Lab) -> int:
    lab.settle(lab.claim())
    return TTL_S


def end_fail(lab: Lab) -> int:
    lab.settle(lab.claim(), failing=[A])
    return DEAD_S


def end_lost(lab: Lab) -> int:
    lab.lose(lab.claim(), max_attempts=1)
    return DEAD_S


def end_cancel(lab: Lab) -> int:
    lab.cancel(A)
    return TTL_S


def end_cancel_running(lab: Lab) -> int:
    lab.claim()
    lab.cancel(A)
    return TTL_S


def end_expire(lab: Lab) -> int:
    lab.past_deadline(A)
    lab.expire()
    return TTL_S


def end_expire_at_claim(lab: Lab) -> int:
    lab.past_deadline(A)
    lab.claim()
    return TTL_S


ENDS = [
    end_settle,
    end_fail,
    end_lost,
    end_cancel,
    end_cancel_running,
    end_expire,
    end_expire_at_claim,
]


@pytest.mark.parametrize("end", ENDS)
def test_a_key_is_held_as_long_as_anything_is_known_of_its_job(
    lab: Lab, end: Callable[[Lab], int]
) -> None:
    lab.submit_keyed("a", timeout_ms=60_000)
    assert ttl(lab) == -1
    kept = end(lab)
    state = lab.state(A)
    assert state is not None
    assert state.terminal
    assert kept < lab.client.ttl(lab.keys.job + A) + kept
    assert 0 < lab.client.ttl(lab.keys.job + A) <= kept
    assert kept < ttl(lab) <= kept + TOMB_S
    lab.client.delete(lab.keys.job + A)
    assert lab.submit_keyed("a").known == {0: known(lab)}
    (fate,) = lab.fates(A)
    assert fate is not None
    assert fate.state is state


def test_a_replayed_job_holds_its_key_again(lab: Lab) -> None:
    lab.submit_keyed("a")
    lab.lose(lab.claim(), max_attempts=1)
    assert ttl(lab) > 0
    assert lab.replay(A).done
    assert ttl(lab) == -1
    assert lab.submit_keyed("a") == Accepted(1, {0: known(lab)})
    assert lab.settle(lab.claim())
    assert TTL_S < ttl(lab) <= TTL_S + TOMB_S


@pytest.mark.parametrize("back", ["lose", "hand_back"])
def test_a_job_that_waits_again_keeps_its_key(lab: Lab, back: str) -> None:
    lab.submit_keyed("a")
    claimed = lab.claim()
    if back == "lose":
        lab.lose(claimed)
    else:
        lab.hand_back()
    assert ttl(lab) == -1
    assert lab.submit_keyed("a") == Accepted(1, {0: known(lab)})


def test_a_forgotten_job_frees_its_key(lab: Lab) -> None:
    lab.submit_keyed("a")
    lab.settle(lab.claim())
    lab.forget(A)
    assert lab.submit_keyed("a", payload=b"other") == Accepted(1)
    assert bytes(lab.record(A).body) == b"other"


def test_a_key_used_anew_is_not_touched_by_its_old_batch(lab: Lab) -> None:
    """The job was cancelled while it ran and forgotten; its batch ends later."""
    (neighbour,) = lab.submit()
    lab.submit_keyed("a")
    old = lab.claim()
    lab.cancel(A)
    lab.forget(A)
    lab.submit_keyed("a", payload=b"other")
    assert lab.settle(old)
    record = lab.record(A)
    assert (record.state, bytes(record.body)) == (State.QUEUED, b"other")
    assert lab.waiting() == [A]
    assert lab.state(neighbour) is State.SUCCEEDED
    assert lab.settle(lab.claim())
    assert (lab.counter("succeeded"), lab.counter("cancelled")) == (2, 1)


@pytest.mark.parametrize("claimed_anew", [False, True])
def test_a_key_used_anew_survives_the_loss_of_its_old_batch(lab: Lab, claimed_anew: bool) -> None:
    lab.submit_keyed("a")
    old = lab.claim()
    lab.cancel(A)
    lab.forget(A)
    lab.submit_keyed("a", payload=b"other")
    heir = lab.claim(token="b") if claimed_anew else None
    assert lab.lose(old).again == 0
    record = lab.record(A)
    assert bytes(record.body) == b"other"
    assert record.history == []
    assert lab.settle(heir or lab.claim())
    assert lab.state(A) is State.SUCCEEDED
