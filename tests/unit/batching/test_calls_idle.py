"""Staying: an idle drain is called for the next job, gives way to others, and may die of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from umbel_batching.keys import workers_key
from umbel_batching.lanes import Lane, new_uid
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import NO_REPLY, tail
from umbel_batching.values import Claimed, Flush, NewJob

if TYPE_CHECKING:
    from tests.unit.batching.conftest import Lab

STAY_MS, LATE_MS, WAIT_MS, LEASE_MS = 500, 2_000, 1_000, 60_000
QUEUE = "umbel"


def announce(lab: Lab, slots: int, worker: str = "w1", stale_ms: int = 30_000) -> None:
    lab.runner.run(lab.calls.announce(QUEUE, worker, slots=slots, stale_ms=stale_ms))


def ended(lab: Lab) -> None:
    """Makes the lane known: one job has come and gone, and left nothing behind but the lane."""
    lab.submit()
    lab.settle(lab.claim(token="first"))
    assert not lab.claim(token="first").stays
    lab.client.delete(lab.shared.signal)


def stay(lab: Lab, token: str = "drain", stay_ms: int = STAY_MS) -> Claimed:
    return lab.claim(token=token, stay_ms=stay_ms, was_idle=True)


def busy(lab: Lab) -> list[str]:
    return lab.members(lab.shared.busy + QUEUE)


def stays(lab: Lab) -> list[str]:
    return lab.members(lab.shared.stays + QUEUE)


def rung(lab: Lab, token: str = "drain") -> int:
    return int(lab.client.llen(lab.keys.ring + token))


def look(lab: Lab) -> int:
    """When a flusher looks at the lane next."""
    at = lab.next_look()
    assert at is not None
    return at


def due_now(lab: Lab) -> bool:
    return lab.slot in lab.runner.run(lab.calls.due(10)).slots


def stir(lab: Lab) -> bool:
    return lab.runner.run(lab.calls.stir(lab.slot))


@pytest.fixture
def idle(lab: Lab) -> Lab:
    """A lane at which one drain stays, on the only slot of its queue."""
    announce(lab, 1)
    ended(lab)
    assert stay(lab).stays
    return lab


# Staying, and what it is good for.


def test_a_claim_that_finds_nothing_stays(lab: Lab) -> None:
    announce(lab, 1)
    ended(lab)
    before = lab.now()
    claimed = stay(lab)
    assert (claimed.stays, claimed.uids, claimed.left) == (True, [], 0)
    scores = [lab.client.zscore(key, "drain") for key in (lab.keys.idle, lab.keys.drains)]
    scores += [lab.client.zscore(lab.shared.busy + QUEUE, "drain"), look(lab)]
    expected = [before + STAY_MS] + [before + STAY_MS + LATE_MS] * 3
    assert all(0 <= got - least < 1_000 for got, least in zip(scores, expected, strict=True))
    assert stays(lab) == [f"{lab.slot}drain"]
    assert 0 < lab.client.pttl(lab.shared.stays + QUEUE) <= STAY_MS + LATE_MS


def test_staying_brings_a_later_look_forward(lab: Lab) -> None:
    announce(lab, 1)
    ended(lab)
    lab.client.zadd(lab.shared.wake, {lab.slot: lab.now() + 10**6})
    stay(lab)
    assert look(lab) <= lab.now() + STAY_MS + LATE_MS


@pytest.mark.parametrize("what", ["no stay", "no slots", "another is called", "unknown lane"])
def test_a_drain_ends_where_it_may_not_stay(lab: Lab, what: str) -> None:
    if what != "unknown lane":
        ended(lab)
    if what != "no slots":
        announce(lab, 1)
    others = ["hint"] if what == "another is called" else []
    hints = dict.fromkeys([*others, "drain"], 10**13)
    lab.client.zadd(lab.shared.busy + QUEUE, hints)
    lab.client.zadd(lab.keys.sent, {"drain": 10**13})
    assert not stay(lab, stay_ms=0 if what == "no stay" else STAY_MS).stays
    if what != "unknown lane":
        assert busy(lab) == others
    assert lab.client.exists(lab.keys.idle, lab.keys.drains, lab.shared.stays + QUEUE) == 0
    assert lab.next_look() is None


def test_a_job_calls_the_drain_that_stays_and_no_flusher(idle: Lab) -> None:
    before = look(idle)
    idle.submit()
    assert rung(idle) == 1
    assert 0 < idle.client.pttl(idle.keys.ring + "drain") <= 1_000
    assert idle.client.exists(idle.keys.idle, idle.shared.stays + QUEUE) == 0
    assert (look(idle), idle.client.exists(idle.shared.signal)) == (before, 0)
    assert busy(idle) == ["drain"]
    claimed = stay(idle)
    assert (len(claimed.uids), claimed.reason, claimed.stays) == (1, "idle", False)


def test_one_job_calls_one_of_two_drains(lab: Lab) -> None:
    announce(lab, 2)
    ended(lab)
    assert stay(lab, "a").stays
    assert stay(lab, "b", STAY_MS + 100).stays
    lab.submit()
    assert (lab.members(lab.keys.idle), stays(lab)) == (["b"], [f"{lab.slot}b"])
    assert (rung(lab, "a"), rung(lab, "b")) == (1, 0)


def test_a_call_is_for_one_drain_and_no_other(lab: Lab) -> None:
    """Else one that is called in the place of another still counts as idle while it computes."""
    announce(lab, 2)
    ended(lab)
    stay(lab, "a")
    stay(lab, "b", STAY_MS + 100)
    lab.submit()
    assert stay(lab, "a").uids
    lab.submit()
    assert (rung(lab, "b"), lab.client.exists(lab.keys.idle)) == (1, 0)


@pytest.mark.parametrize(
    ("jobs", "called", "due"), [(3, 1, False), (8, 2, False), (11, 2, False), (12, 2, True)]
)
def test_many_jobs_call_a_drain_for_each_full_batch(
    lab: Lab, jobs: int, called: int, due: bool
) -> None:
    """Where more batches are ready than drains stay, a flusher sends for the other slots."""
    announce(lab, 4)
    ended(lab)
    lab.client.hset(lab.keys.lane, "slots", 4)
    stay(lab, "a")
    stay(lab, "b")
    lab.submit(jobs)
    assert rung(lab, "a") + rung(lab, "b") == called
    assert lab.client.zcard(lab.keys.idle) == 2 - called
    assert due_now(lab) == due
    if due:
        assert lab.flush(slots=4).sent == 2


def test_a_drain_whose_stay_is_over_is_not_called(idle: Lab) -> None:
    idle.client.zadd(idle.keys.idle, {"drain": idle.now() - 1})
    idle.submit()
    assert rung(idle) == 0
    claimed = stay(idle, stay_ms=0)
    assert len(claimed.uids) == 1, "it looks once more before it ends"


def test_a_claim_that_takes_jobs_ends_the_stay(idle: Lab) -> None:
    """Jobs that come back call nobody; who takes them must not be called while it computes."""
    idle.submit()
    announce(idle, 2)
    lost = idle.claim(token="other")
    assert stay(idle).stays
    assert idle.lose(lost).again == 1
    assert stay(idle).uids
    assert idle.client.exists(idle.keys.idle, idle.shared.stays + QUEUE) == 0


def test_nothing_to_submit_calls_nobody(idle: Lab) -> None:
    idle.submit_keyed("one")
    assert rung(idle) == 1
    stay(idle)
    assert stay(idle).stays
    idle.submit_keyed("one")
    assert rung(idle) == 1, "the mark of the first call, which nobody took"


# Where no drain stays.


def test_a_free_slot_makes_a_job_due_at_once(lab: Lab) -> None:
    announce(lab, 1)
    lab.submit()
    assert due_now(lab)
    assert lab.client.zcard(lab.shared.signal) == 1
    assert lab.flush().sent == 1


def test_a_job_waits_while_all_slots_are_busy(lab: Lab) -> None:
    announce(lab, 1)
    lab.client.zadd(lab.shared.busy + QUEUE, {"elsewhere": 10**13})
    (uid,) = lab.submit()
    assert lab.next_look() == lab.record(uid).created_ms + WAIT_MS
    assert lab.flush().sent == 0
    assert lab.next_look() == lab.record(uid).created_ms + WAIT_MS
    lab.age(uid, WAIT_MS)
    assert lab.flush().sent == 1


def test_a_drain_that_only_stays_elsewhere_leaves_its_slot_free(
    idle: Lab, neighbour: Callable[..., str]
) -> None:
    """No job waits while a worker has nothing to do; the hint ends the stay."""
    idle.client.delete(idle.shared.wake)
    slot = neighbour(1, size=4)
    assert idle.runner.run(idle.calls.due(10)).slots == [slot]
    flush = flush_of(idle, slot, 1)
    assert (flush.sent, flush.in_the_way) == (1, (idle.slot,))


def test_one_hint_is_enough_for_what_is_not_full(lab: Lab) -> None:
    announce(lab, 9)
    lab.submit(3)
    assert [lab.flush(slots=9).sent, lab.flush(slots=9).sent] == [1, 0]
    lab.client.delete(lab.shared.signal)
    lab.submit()
    assert lab.client.zcard(lab.shared.signal) == 0


def test_a_slot_whose_drain_fell_silent_is_free(lab: Lab) -> None:
    announce(lab, 1)
    lab.client.zadd(lab.shared.busy + QUEUE, {"lost": 1})
    lab.submit()
    assert due_now(lab)
    assert lab.flush().sent == 1
    assert "lost" not in busy(lab)


# Whose slot is needed elsewhere.


@pytest.fixture
def neighbour(lab: Lab) -> Callable[..., str]:
    """Puts jobs into another lane of the same queue; returns its slot."""

    def submit(count: int, size: int = 1) -> str:
        policy = BatchPolicy(max_batch_size=size, max_wait_ms=WAIT_MS)
        other = Lane(model="other", version="1", policy=policy)
        jobs = [NewJob(new_uid(), tail(NO_REPLY, b"") + b"payload") for _ in range(count)]
        lab.runner.run(lab.calls.submit(other, jobs))
        return other.slot

    return submit


def flush_of(lab: Lab, slot: str, slots: int) -> Flush:
    tokens = [new_uid() for _ in range(8)]
    call = lab.calls.flush(slot, slots=slots, patience_ms=LATE_MS, tokens=tokens)
    return lab.runner.run(call)


def test_hints_beyond_the_slots_name_the_lanes_in_the_way_once(
    idle: Lab, neighbour: Callable[..., str]
) -> None:
    other = neighbour(1)
    first = flush_of(idle, other, 1)
    assert (first.sent, first.in_the_way) == (1, (idle.slot,))
    assert flush_of(idle, other, 1).in_the_way == ()
    assert not stay(idle).stays, "who is called finds that another waits for the slot"
    assert "drain" not in busy(idle)


def test_a_flush_whose_reply_was_lost_names_them_again(
    idle: Lab, neighbour: Callable[..., str]
) -> None:
    other, tokens = neighbour(1), [new_uid()]
    call = idle.calls.flush(other, slots=1, patience_ms=LATE_MS, tokens=tokens)
    assert idle.runner.run(call) == idle.runner.run(call)
    assert idle.runner.run(call).in_the_way == (idle.slot,)


def test_as_many_drains_as_needed_are_in_the_way(lab: Lab, neighbour: Callable[..., str]) -> None:
    """Two that stay at one lane are two."""
    announce(lab, 3)
    ended(lab)
    for token in "abc":
        stay(lab, token)
    flush = flush_of(lab, neighbour(2), 3)
    assert (flush.sent, flush.in_the_way) == (2, (lab.slot,) * 2)
    assert [stir(lab) for _ in flush.in_the_way] == [True, True]
    assert lab.client.zcard(lab.keys.idle) == 1


def test_a_drain_that_was_called_is_not_in_the_way(
    idle: Lab, neighbour: Callable[..., str]
) -> None:
    idle.submit()
    flush = flush_of(idle, neighbour(1), 2)
    assert (flush.sent, flush.in_the_way) == (1, ())


def test_free_slots_leave_idle_drains_alone(idle: Lab, neighbour: Callable[..., str]) -> None:
    announce(idle, 2)
    flush = flush_of(idle, neighbour(1), 2)
    assert (flush.sent, flush.in_the_way) == (1, ())
    assert idle.members(idle.keys.idle) == ["drain"]


def test_stir_calls_one_drain(idle: Lab) -> None:
    assert stir(idle)
    assert (rung(idle), idle.client.exists(idle.keys.idle, idle.shared.stays + QUEUE)) == (1, 0)
    assert not stir(idle)
    assert stay(idle).stays, "where nobody waits any more it stays on"


def test_stir_of_an_unknown_lane_does_nothing(lab: Lab) -> None:
    assert not stir(lab)
    assert lab.client.keys() == []


# How a stay, or a drain, ends.


def ends(lab: Lab, how: str) -> None:
    if how == "release":
        lab.runner.run(lab.calls.release(lab.slot, "drain"))
    elif how == "hand_back":
        lab.hand_back()
    elif how == "orphan":
        lab.orphan("drain")
    else:
        stay(lab, stay_ms=0)


@pytest.mark.parametrize("how", ["release", "hand_back", "orphan", "claim"])
def test_who_ends_frees_the_slot(idle: Lab, how: str) -> None:
    ends(idle, how)
    assert (busy(idle), stays(idle)) == ([], [])
    assert idle.client.exists(idle.keys.idle, idle.keys.drains) == 0
    idle.submit()
    assert (rung(idle), due_now(idle)) == (0, True)


def test_a_worker_that_dies_frees_its_slots(lab: Lab) -> None:
    announce(lab, 1)
    lab.submit()
    lab.claim(worker="w1")
    assert busy(lab) == ["drain"]
    assert lab.orphan("w1") == 1
    assert busy(lab) == []


def test_a_running_drain_keeps_its_slot_as_long_as_its_lease(lab: Lab) -> None:
    announce(lab, 1)
    lab.submit()
    claimed = lab.claim(lease_ms=1_000)
    renew = lab.calls.renew(lab.slot, batch=claimed.batch, token="drain", lease_ms=LEASE_MS)
    assert lab.runner.run(renew)
    score = lab.client.zscore(lab.shared.busy + QUEUE, "drain")
    assert score == lab.client.zscore(lab.keys.drains, "drain") > lab.now() + 2_000


def test_hints_that_are_forgotten_hold_no_slot(lab: Lab) -> None:
    announce(lab, 1)
    lab.submit()
    assert lab.flush().sent == len(busy(lab)) == 1
    lab.runner.run(lab.calls.rearm(lab.slot, now=True))
    assert (busy(lab), lab.client.exists(lab.keys.sent)) == ([], 0)


def passes(lab: Lab) -> None:
    """Whatever is noted until a time has lapsed."""
    for key in (lab.keys.idle, lab.keys.drains, lab.shared.busy + QUEUE, lab.shared.stays + QUEUE):
        for member in lab.members(key):
            lab.client.zadd(key, {member: 1})


def test_a_drain_that_dies_while_it_stays_delays_a_job_by_the_stay_and_two_seconds(
    idle: Lab,
) -> None:
    idle.submit()
    assert look(idle) <= idle.now() + STAY_MS + LATE_MS
    assert idle.flush().sent == 0, "it may still come"
    assert look(idle) <= idle.now() + LATE_MS
    passes(idle)
    assert idle.flush().sent == 1


def test_nothing_is_left_of_a_drain_that_dies_while_it_stays(idle: Lab) -> None:
    passes(idle)
    assert idle.flush() == Flush(0, 0, idle.lane.name, QUEUE)
    permanent = {idle.keys.lane, idle.shared.lanes}
    left = {key.decode() for key in idle.client.scan_iter("t:*") if idle.client.ttl(key) == -1}
    assert left == permanent
    assert idle.next_look() is None


# What a batch says about why it was taken, and what is known of workers.


@pytest.mark.parametrize(
    ("jobs", "was_idle", "waited", "reason"),
    [
        (1, True, False, "idle"),
        (1, False, False, "drain"),
        (1, True, True, "timeout"),
        (4, True, False, "size"),
    ],
)
def test_reason_tells_whether_the_drain_was_idle(
    lab: Lab, jobs: int, was_idle: bool, waited: bool, reason: str
) -> None:
    for uid in lab.submit(jobs):
        if waited:
            lab.age(uid, WAIT_MS)
    assert lab.claim(was_idle=was_idle).reason == reason


def told(lab: Lab) -> int:
    return int(lab.client.get(lab.shared.slots + QUEUE))


def test_slots_of_all_workers_are_summed(lab: Lab) -> None:
    announce(lab, 2, "a")
    announce(lab, 3, "b")
    announce(lab, 2, "a")
    assert told(lab) == 5
    announce(lab, 3, "b", stale_ms=0)
    assert told(lab) == 2
    lab.client.zadd(workers_key("t", QUEUE), {"a|2": 1})
    announce(lab, 1, "c")
    assert told(lab) == 1
    announce(lab, 1, "c", stale_ms=0)
    assert told(lab) == 0
    assert 0 < lab.client.ttl(lab.shared.slots + QUEUE) <= 60
