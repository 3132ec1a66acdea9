"""Claiming ahead: a full batch or nothing, and no penalty for jobs that were never begun."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from umbel_batching.lanes import new_uid
from umbel_batching.record import State
from umbel_batching.values import Claimed, Reaped

if TYPE_CHECKING:
    from tests.unit.batching.conftest import Lab

QUEUE = "umbel"


def ahead(lab: Lab, batch: str | None = None, token: str = "drain") -> Claimed:
    return lab.claim(batch, token=token, ahead=True)


def two(lab: Lab) -> tuple[Claimed, Claimed]:
    """A batch that runs, and the one that its drain claimed ahead."""
    lab.submit(8)
    return lab.claim(), ahead(lab)


def leased(lab: Lab) -> set[str]:
    return set(lab.members(lab.keys.leases))


@pytest.mark.parametrize(("left", "taken"), [(0, 0), (3, 0), (4, 4), (7, 4)])
def test_ahead_takes_a_full_batch_or_nothing(lab: Lab, left: int, taken: int) -> None:
    uids = lab.submit(4 + left)
    running = lab.claim()
    claimed = ahead(lab)
    assert claimed.uids == uids[4 : 4 + taken]
    assert (claimed.left, claimed.stays) == (left - taken, False)
    assert claimed.reason == ("size" if taken else "")
    assert leased(lab) == {running.batch} | ({claimed.batch} if taken else set())
    assert lab.waiting() == uids[4 + taken :]


def test_ahead_neither_ends_a_drain_nor_has_it_stay(lab: Lab) -> None:
    lab.runner.run(lab.calls.announce(QUEUE, "w1", slots=1, stale_ms=30_000))
    lab.submit(2)
    lab.claim()
    keys = (lab.keys.drains, lab.shared.busy + QUEUE)
    scores = [lab.client.zscore(key, "drain") for key in keys]
    assert not lab.claim(ahead=True, stay_ms=500).stays
    assert [lab.client.zscore(key, "drain") for key in keys] == scores
    assert lab.client.exists(lab.keys.idle, lab.shared.stays + QUEUE) == 0


def test_ahead_leaves_the_batches_of_drains_that_are_on_their_way(lab: Lab) -> None:
    """They can begin them sooner than a worker that has another to compute first."""
    lab.submit(12)
    assert lab.flush(slots=2, tokens=["drain", "other"]).sent == 2
    lab.claim()
    assert len(ahead(lab).uids) == 4
    assert ahead(lab).uids == []
    assert len(lab.claim(token="other").uids) == 4


def test_ahead_of_jobs_that_all_expired_takes_nothing(lab: Lab) -> None:
    lab.submit(4)
    lab.claim()
    for uid in lab.submit(4, timeout_ms=1_000):
        lab.past_deadline(uid)
    claimed = ahead(lab)
    assert (claimed.uids, claimed.left, claimed.stays) == ([], 0, False)
    assert lab.members(lab.keys.drains) == ["drain"]


def test_asked_again_it_returns_the_same_batch(lab: Lab) -> None:
    lab.submit(12)
    lab.claim()
    first = ahead(lab)
    again = ahead(lab, first.batch)
    assert (again.uids, again.records, again.reason) == (first.uids, first.records, "size")
    assert (again.left, len(leased(lab))) == (4, 2)


def test_a_lost_batch_that_never_began_waits_again_as_if_nothing_had_been(lab: Lab) -> None:
    running, waits = two(lab)
    before = [lab.record(uid) for uid in waits.uids]
    assert [record.attempts for record in before] == [1] * 4
    assert lab.lose(waits) == Reaped(1, 4, 0)
    for uid in waits.uids:
        record = lab.record(uid)
        assert (record.state, record.attempts, record.cap) == (State.QUEUED, 0, 0)
        assert not record.history
    assert leased(lab) == {running.batch}
    assert lab.lose(running) == Reaped(1, 4, 0)
    record = lab.record(running.uids[0])
    assert (record.attempts, record.cap, len(record.history)) == (1, 2, 1)


def test_the_last_attempt_is_not_used_up_ahead(lab: Lab) -> None:
    """Lost with workers that computed other batches, a job would fail without a single try."""
    running, waits = two(lab)
    assert lab.lose(waits, max_attempts=1) == Reaped(1, 4, 0)
    assert lab.client.exists(lab.keys.dead, lab.keys.recordings) == 0
    assert lab.lose(running, max_attempts=1) == Reaped(1, 0, 4)


@pytest.mark.parametrize("fence", ["held", "lost"])
def test_a_batch_that_has_begun_is_charged_as_usual(lab: Lab, fence: str) -> None:
    running, waits = two(lab)
    if fence == "lost":
        lab.lose(running)
    assert lab.settle(running, begins=waits.batch) == (fence == "held")
    assert lab.lose(waits) == Reaped(1, 4, 0)
    record = lab.record(waits.uids[0])
    assert (record.attempts, record.cap, len(record.history)) == (1, 2, 1)


def test_that_a_batch_began_is_known_after_the_same_claim_again(lab: Lab) -> None:
    """Both calls are sent again where the connection breaks."""
    running, waits = two(lab)
    for _ in range(2):
        assert lab.settle(running, begins=waits.batch)
        assert ahead(lab, waits.batch).uids == waits.uids
    lab.lose(waits)
    assert lab.record(waits.uids[0]).attempts == 1


def test_a_batch_ahead_is_settled_like_any_other(lab: Lab) -> None:
    running, waits = two(lab)
    assert lab.settle(running, begins=waits.batch)
    assert lab.settle(waits)
    assert {lab.state(uid) for uid in running.uids + waits.uids} == {State.SUCCEEDED}
    assert (lab.claim().left, lab.client.exists(lab.keys.drains, lab.keys.leases)) == (0, 0)


def test_both_batches_are_handed_back(lab: Lab) -> None:
    running, waits = two(lab)
    assert lab.hand_back() == 8
    assert lab.waiting() == running.uids + waits.uids
    assert {lab.record(uid).attempts for uid in lab.waiting()} == {0}
    assert not lab.settle(running, begins=waits.batch)
    assert lab.client.exists(lab.keys.leases, lab.keys.drains) == 0


def test_orphaned_the_one_is_charged_and_the_other_is_not(lab: Lab) -> None:
    running, waits = two(lab)
    assert lab.orphan("drain") == 2
    lab.client.zadd(lab.keys.leases, dict.fromkeys((running.batch, waits.batch), 1))
    assert lab.reap() == Reaped(2, 8, 0)
    assert [lab.record(batch.uids[0]).attempts for batch in (running, waits)] == [1, 0]


def test_begins_of_a_batch_that_is_unknown_makes_none(lab: Lab) -> None:
    lab.submit(1)
    unknown = new_uid()
    assert lab.settle(lab.claim(), begins=unknown)
    assert not lab.client.exists(lab.keys.batch + unknown)


def test_ahead_leaves_nothing_without_a_ttl(lab: Lab) -> None:
    running, waits = two(lab)
    lab.settle(running, begins=waits.batch)
    lab.lose(waits)
    while (claimed := lab.claim()).uids:
        lab.settle(claimed)
    lab.claim()
    lab.client.delete(lab.shared.signal)
    left = {key.decode() for key in lab.client.scan_iter("t:*") if lab.client.ttl(key) == -1}
    assert left == {lab.keys.lane, lab.shared.lanes}
