"""Priorities: higher classes first, older jobs first within a class, and nobody starves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from umbel_batching.census import BANDS, lane_statuses
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import Priority, State

if TYPE_CHECKING:
    from tests.unit.batching.conftest import Lab

HIGH, NORMAL, LOW = Priority.HIGH, Priority.NORMAL, Priority.LOW
#: One claim of so many takes the oldest jobs, whatever their class.
AGE_TURN = 4


@pytest.mark.parametrize(("priority", "band"), list(zip(Priority, BANDS, strict=True)))
def test_each_class_waits_in_a_band_of_its_own(lab: Lab, priority: Priority, band: int) -> None:
    (uid,) = lab.submit(priority=priority)
    record = lab.record(uid)
    assert record.priority is priority
    assert lab.client.zscore(lab.keys.waiting, uid) == band + record.created_ms


def test_higher_classes_run_first_and_older_jobs_before_younger(lab: Lab) -> None:
    low, normal, high = (lab.submit(2, priority=which) for which in (LOW, NORMAL, HIGH))
    later = lab.submit(2, priority=HIGH)
    assert lab.waiting() == high + later + normal + low
    first, second = lab.claim(), lab.claim()
    assert first.uids == high + later
    assert second.uids == normal + low


def test_with_one_class_the_oldest_job_is_simply_the_first(lab: Lab) -> None:
    low = lab.submit(9, priority=LOW)
    taken = [lab.claim() for _ in range(3)]
    assert [uid for claimed in taken for uid in claimed.uids] == low
    assert lab.counter("turn") == 0


@pytest.mark.parametrize("size", [1, 4])
def test_each_fourth_batch_of_a_mixed_lane_takes_the_oldest(make_lab: type[Lab], size: int) -> None:
    lab = make_lab(BatchPolicy(max_batch_size=size, max_queue=1_000))
    high = lab.submit(size * 20, priority=HIGH)
    low = lab.submit(size * 2, priority=LOW)
    for uid in low:
        lab.age(uid, 60_000)
    turns = ["low" if lab.claim().uids[0] in low else "high" for _ in range(2 * AGE_TURN)]
    assert turns == (["high"] * (AGE_TURN - 1) + ["low"]) * 2
    assert lab.waiting() == high[(2 * AGE_TURN - 2) * size :]


def test_the_turn_by_age_mixes_classes(lab: Lab) -> None:
    high, normal, low = (lab.submit(12, priority=which)[:2] for which in (HIGH, NORMAL, LOW))
    order = [low[0], normal[0], high[0], low[1], normal[1], high[1]]
    for place, uid in enumerate(order):
        lab.age(uid, 60_000 - 1_000 * place)
    lab.client.hset(lab.keys.lane, "turn", AGE_TURN - 1)
    claimed = lab.claim()
    assert claimed.uids == order[:4]
    assert claimed.oldest_ms == lab.record(low[0]).created_ms


def test_of_equally_old_jobs_the_higher_class_runs_first(lab: Lab) -> None:
    uids = {which: lab.submit(4, priority=which)[0] for which in (LOW, NORMAL, HIGH)}
    now = lab.now()
    for which, uid in uids.items():
        lab.age(uid, lab.record(uid).created_ms - (now - 50_000))
        assert lab.record(uid).priority is which
    lab.client.hset(lab.keys.lane, "turn", AGE_TURN - 1)
    assert lab.claim().uids[:3] == [uids[HIGH], uids[NORMAL], uids[LOW]]


def test_a_low_job_is_not_starved_by_more_high_ones_than_the_lane_can_do(lab: Lab) -> None:
    """Four jobs leave while six high ones come; only older ones go before the low one."""
    lab.submit(20, priority=HIGH)
    (low,) = lab.submit(priority=LOW)
    batches = 0
    while lab.state(low) is State.QUEUED:
        lab.age(low, 1)  # time passes: what comes later is younger
        lab.submit(6, priority=HIGH)
        lab.settle(lab.claim())
        batches += 1
        assert batches <= 20 // 4 + 1 + AGE_TURN
    assert lab.state(low) is State.SUCCEEDED
    assert len(lab.waiting()) > 20


def test_a_lane_is_due_for_its_oldest_job_of_whatever_class(lab: Lab) -> None:
    (low,) = lab.submit(priority=LOW)
    lab.age(low, 400)
    lab.submit(priority=HIGH)
    lab.submit()
    lab.flush()
    assert lab.next_look() == lab.record(low).created_ms + 1_000
    lab.age(low, 600)
    assert lab.flush().sent == 1


@pytest.mark.parametrize("oldest", list(Priority))
def test_the_census_tells_the_age_of_the_oldest_of_all_classes(lab: Lab, oldest: Priority) -> None:
    for which in Priority:
        (uid,) = lab.submit(priority=which)
        if which is oldest:
            lab.age(uid, 7_000)
    (status,) = lane_statuses(lab.client, "t")
    assert 7_000 <= status.oldest_ms < 60_000


def test_a_batch_tells_of_its_own_jobs_not_of_those_it_left(lab: Lab) -> None:
    high = lab.submit(3, priority=HIGH)
    for uid in lab.submit(3, priority=LOW):
        lab.age(uid, 50_000)
    lab.client.hset(lab.keys.lane, "max_batch_size", 3)
    claimed = lab.claim()
    assert claimed.uids == high
    assert claimed.oldest_ms == min(lab.record(uid).created_ms for uid in high)


def test_a_lost_job_waits_again_in_its_class(lab: Lab) -> None:
    low, high = lab.submit(1, priority=LOW)[0], lab.submit(1, priority=HIGH)[0]
    assert lab.lose(lab.claim()).again == 2
    assert lab.waiting() == [high, low]
    assert [lab.record(uid).priority for uid in (high, low)] == [HIGH, LOW]
