"""Batches of jobs of like length: who is in them, and who is not passed over."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from umbel_batching.census import BANDS, lane_statuses
from umbel_batching.length import CODES, code_of, longest_of
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import Priority, State, length_of

if TYPE_CHECKING:
    from tests.unit.batching.conftest import Lab


def queue(lab: Lab, lengths: Sequence[int], **options: Any) -> list[str]:
    """One job for each length, in this order: each arrived a millisecond after the one before."""
    uids = [lab.submit(length=length, **options)[0] for length in lengths]
    for place, uid in enumerate(uids):
        created, start = lab.record(uid).created_ms, lab.now() - 60_000
        lab.age(uid, created - start - place)
    return uids


def lengths_of(lab: Lab, uids: Sequence[str]) -> list[int]:
    return [longest_of(lab.record(uid).length) for uid in uids]


def test_a_length_stands_in_record_and_score(lab: Lab) -> None:
    for place, priority in enumerate(Priority):
        (uid,) = lab.submit(length=100, priority=priority)
        record = lab.record(uid)
        assert (record.length, record.priority) == (code_of(100), priority)
        score = lab.client.zscore(lab.keys.waiting, uid)
        assert score == BANDS[place] + record.created_ms + code_of(100) / CODES
        assert length_of(lab.client.get(lab.keys.job + uid)) == record.length


def test_a_batch_is_of_like_lengths_and_of_the_first_in_line(lab: Lab) -> None:
    uids = queue(lab, [10, 90, 11, 85, 10, 80, 9, 95])
    first, second = lab.claim(), lab.claim()
    assert first.uids == uids[::2]
    assert (first.reason, first.left, first.oldest_ms) == ("size", 4, created(lab, uids[0]))
    assert second.uids == uids[1::2]
    assert (second.left, second.oldest_ms) == (0, created(lab, uids[1]))
    assert lab.counter("bytes") == 0
    assert lab.claim().left == 0


def created(lab: Lab, uid: str) -> int:
    return lab.record(uid).created_ms


def test_only_so_far_is_looked_ahead(make_lab: type[Lab]) -> None:
    lab = make_lab(BatchPolicy(max_batch_size=2, look_ahead=2))
    uids = queue(lab, [10, 90, 60, 50, 10])
    assert lab.claim().uids == [uids[0], uids[3]]


def test_without_looking_ahead_jobs_run_as_they_came(make_lab: type[Lab]) -> None:
    lab = make_lab(BatchPolicy(max_batch_size=2, look_ahead=1))
    uids = queue(lab, [90, 10, 90, 10])
    assert [lab.claim().uids for _ in range(2)] == [uids[:2], uids[2:]]
    at_once = [lab.submit(length=length)[0] for length in (90, 10)]
    scores = [lab.client.zscore(lab.keys.waiting, uid) for uid in at_once]
    assert scores == [created(lab, uid) for uid in at_once]


def test_strict_order_keeps_to_the_cost(make_lab: type[Lab]) -> None:
    lab = make_lab(BatchPolicy(max_batch_size=8, look_ahead=1, max_batch_cost=40))
    uids = queue(lab, [10, 10, 30, 10, 50, 50])
    taken = [lab.claim().uids for _ in range(4)]
    assert taken == [uids[:2], uids[2:3], uids[3:4], uids[4:5]]


def test_no_batch_costs_more_than_it_may(make_lab: type[Lab]) -> None:
    lab = make_lab(BatchPolicy(max_batch_size=8, max_batch_cost=64))
    chance = random.Random(0)
    uids = queue(lab, [chance.choice((1, 4, 16, 40, 100)) for _ in range(40)])
    claimed: list[str] = []
    while lab.waiting():
        oldest = lab.waiting()[0]
        batch = lab.claim().uids
        lengths = lengths_of(lab, batch)
        assert batch[0] == oldest
        assert len(batch) == 1 or (len(batch) <= 8 and len(batch) * max(lengths) <= 64)
        claimed += batch
    assert sorted(claimed) == sorted(uids)


def test_whoever_has_k_jobs_before_it_runs_in_one_of_k_and_one_batches(lab: Lab) -> None:
    """Jobs go on coming that fit better than this one ever does."""
    uids = queue(lab, [10, 10, 10, 1_000])
    batches = 0
    while lab.state(uids[3]) is State.QUEUED:
        lab.submit(4, length=10)
        lab.settle(lab.claim())
        batches += 1
    assert batches <= 4


def test_a_deadline_that_is_near_is_not_passed_over(lab: Lab) -> None:
    uids = queue(lab, [10, 90, 10, 80, 10, 10, 10], timeout_ms=60_000)
    lab.set_deadline(uids[3], lab.now() + 200)
    claimed = lab.claim()
    assert uids[3] in claimed.uids
    assert claimed.uids[0] == uids[0]
    assert lab.members(lab.keys.deadlines) == lab.waiting()


def test_what_has_expired_takes_no_place_before_others(lab: Lab) -> None:
    uids = queue(lab, [10, 90, 10, 10, 10], timeout_ms=60_000)
    lab.past_deadline(uids[1])
    assert lab.claim().uids == [uids[0], *uids[2:]]
    assert lab.expire() == 1
    assert lab.waiting() == []


def test_higher_classes_still_run_first(lab: Lab) -> None:
    normal = queue(lab, [10, 10, 10, 10])
    high = queue(lab, [90, 10], priority=Priority.HIGH)
    assert lab.claim().uids == [*high, *normal[:2]]


def test_the_turn_by_age_looks_at_all_classes(lab: Lab) -> None:
    low = queue(lab, [10, 90], priority=Priority.LOW)
    high = [lab.submit(length=length, priority=Priority.HIGH)[0] for length in (90, 10, 10, 10)]
    lab.client.hset(lab.keys.lane, "turn", 3)
    assert set(lab.claim().uids) == {low[0], *high[1:]}


@pytest.mark.parametrize("way", ["lost", "handed back", "replayed"])
def test_a_job_that_waits_again_has_its_length(lab: Lab, way: str) -> None:
    (uid,) = queue(lab, [300])
    before = lab.client.zscore(lab.keys.waiting, uid)
    claimed = lab.claim()
    if way == "lost":
        lab.lose(claimed)
    elif way == "handed back":
        lab.hand_back()
    else:
        lab.settle(claimed, failing=[uid])
        assert lab.replay(uid).done
    assert lab.client.zscore(lab.keys.waiting, uid) == before
    assert lab.record(uid).length == code_of(300)


def test_jobs_lost_with_a_worker_share_no_batch_with_others(lab: Lab) -> None:
    lost = queue(lab, [10, 10, 10, 10])
    lab.lose(lab.claim())
    others = queue(lab, [10, 10])
    taken = [lab.claim().uids for _ in range(3)]
    assert taken == [lost[:2], lost[2:], others]


def test_a_remembered_ceiling_bounds_a_batch(lab: Lab) -> None:
    uids = queue(lab, [10, 90, 80, 11, 10])
    lab.client.hset(lab.keys.lane, "ceiling:cpu", 2)
    lab.client.hset(lab.keys.lane, "ceiling_at:cpu", lab.now())
    assert lab.claim().uids == [uids[0], uids[4]]


def test_the_age_of_the_oldest_is_told_in_whole_milliseconds(lab: Lab) -> None:
    (uid,) = lab.submit(length=1_000, priority=Priority.HIGH)
    lab.age(uid, 7_000)
    (status,) = lane_statuses(lab.client, "t")
    assert status.oldest_ms <= lab.now() - created(lab, uid)
    assert lab.flush().sent == 1


def test_a_policy_changes_what_waits_already(lab: Lab) -> None:
    uids = queue(lab, [10, 90, 10, 90, 10, 90])
    policy = lab.lane.policy.model_copy(update={"look_ahead": 1})
    assert lab.runner.run(lab.calls.govern(lab.slot, lab.lane.name, policy))
    assert lab.claim().uids == uids[:4]
