"""Handing back and orphans: batches that return early, with or without a penalty."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from umbel_batching.lanes import new_uid
from umbel_batching.record import State
from umbel_batching.values import Reaped

if TYPE_CHECKING:
    from tests.unit.batching.conftest import Lab

TTL_S = 100


def test_jobs_handed_back_wait_again_as_if_never_claimed(lab: Lab) -> None:
    uids = lab.submit(3, meta=b"\x81\xa1a\x01")
    size, before = lab.counter("bytes"), [lab.record(uid) for uid in uids]
    claimed = lab.claim()
    assert lab.hand_back() == 3
    assert lab.waiting() == uids
    assert lab.counter("bytes") == size
    for uid, old in zip(uids, before, strict=True):
        record = lab.record(uid)
        assert (record.state, record.attempts, record.cap) == (State.QUEUED, 0, 0)
        assert (record.meta, bytes(record.body)) == (old.meta, bytes(old.body))
        assert record.history == []
        assert lab.client.ttl(lab.keys.job + uid) == -1
    assert lab.client.exists(lab.keys.leases, lab.keys.drains) == 0
    assert 0 < lab.client.ttl(lab.keys.batch + claimed.batch) <= TTL_S
    assert lab.counter("leases_lost") == 0


def test_jobs_handed_back_share_a_batch_with_fresh_ones(lab: Lab) -> None:
    old = lab.submit(2)
    lab.claim()
    lab.hand_back()
    fresh = lab.submit(2)
    assert lab.claim().uids == old + fresh


def test_a_lane_handed_back_is_due_at_once(lab: Lab) -> None:
    lab.submit()
    lab.claim()
    lab.client.delete(lab.shared.wake, lab.shared.signal)
    lab.hand_back()
    assert lab.runner.run(lab.calls.due(10)).slots == [lab.slot]
    assert lab.client.zcard(lab.shared.signal) == 1


def test_handing_back_costs_no_attempt_however_often(lab: Lab) -> None:
    (uid,) = lab.submit()
    for _ in range(5):
        lab.claim()
        lab.hand_back()
    lab.lose(lab.claim())
    lab.claim()
    lab.hand_back()
    record = lab.record(uid)
    assert (record.attempts, record.cap, len(record.history)) == (1, 1, 1)


def test_the_fence_of_a_batch_handed_back_is_dead(lab: Lab) -> None:
    (uid,) = lab.submit()
    old = lab.claim()
    lab.hand_back()
    assert not lab.settle(old)
    renew = lab.calls.renew(lab.slot, batch=old.batch, token="drain", lease_ms=1_000)
    assert not lab.runner.run(renew)
    heir = lab.claim()
    assert not lab.settle(old)
    assert lab.settle(heir)
    assert not lab.settle(old, failing=[uid])
    assert lab.state(uid) is State.SUCCEEDED


def test_asking_for_a_batch_handed_back_gives_nothing(lab: Lab) -> None:
    lab.submit(3)
    batch = new_uid()
    lab.claim(batch)
    lab.hand_back()
    again = lab.claim(batch)
    assert (again.uids, again.left) == ([], 3)


def test_only_the_batches_of_that_drain_are_handed_back(lab: Lab) -> None:
    first, second, third = lab.submit(4), lab.submit(4), lab.submit(4)
    lab.claim(token="mine")
    other = lab.claim(token="other")
    lab.claim(token="mine")
    lab.client.zadd(lab.keys.sent, {"mine": 10**13})
    assert lab.hand_back("mine") == 8
    assert lab.waiting() == first + third
    assert lab.members(lab.keys.leases) == [other.batch]
    assert lab.members(lab.keys.drains) == ["other"]
    assert lab.client.exists(lab.keys.sent) == 0
    assert lab.settle(other)
    assert [lab.state(uid) for uid in second] == [State.SUCCEEDED] * 4


def test_jobs_that_ended_meanwhile_are_not_handed_back(lab: Lab) -> None:
    kept, gone = lab.submit(2)
    lab.claim()
    lab.cancel(gone)
    assert lab.hand_back() == 1
    assert lab.waiting() == [kept]
    assert lab.state(gone) is State.CANCELLED


def test_handing_back_twice_changes_nothing(lab: Lab) -> None:
    lab.submit(3)
    lab.claim()
    assert [lab.hand_back(), lab.hand_back()] == [3, 0]
    assert lab.hand_back("nobody") == 0
    assert len(lab.waiting()) == 3


def test_a_lane_nobody_knows_has_nothing_to_hand_back(lab: Lab) -> None:
    assert lab.hand_back() == 0
    assert lab.orphan("w1") == 0
    assert lab.client.keys() == []


@pytest.mark.parametrize("owner", ["a", "host:1"])
def test_orphans_are_taken_back_at_once_by_token_or_by_worker(lab: Lab, owner: str) -> None:
    mine = lab.submit(4)
    lab.submit(4)
    orphaned = lab.claim(token="a", worker="host:1")
    other = lab.claim(token="b", worker="host:2")
    lab.client.delete(lab.shared.wake, lab.shared.signal)
    assert lab.orphan(owner, "killed by SIGKILL") == 1
    assert lab.runner.run(lab.calls.due(10)).slots == [lab.slot]
    assert lab.client.zcard(lab.shared.signal) == 1
    assert lab.members(lab.keys.drains) == ["b"]
    assert lab.reap() == Reaped(1, 4, 0)
    assert lab.waiting() == mine
    assert lab.members(lab.keys.leases) == [other.batch]
    (event,) = lab.record(mine[0]).history
    assert (event.what, event.worker, event.cause) == ("lost", "host:1", "killed by SIGKILL")
    assert event.batch_id == orphaned.batch
    assert not lab.settle(orphaned)


def test_every_batch_of_a_dead_worker_is_an_orphan(lab: Lab) -> None:
    lab.submit(12)
    for token in "abc":
        lab.claim(token=token, worker="host:1")
    assert lab.orphan("host:1") == 3
    assert lab.reap() == Reaped(3, 12, 0)
    assert lab.client.exists(lab.keys.drains) == 0


def test_the_owner_must_match_as_a_whole(lab: Lab) -> None:
    lab.submit()
    claimed = lab.claim(token="a", worker="host:12")
    assert [lab.orphan(name) for name in ("host:1", "", "host", claimed.batch)] == [0] * 4
    assert lab.reap() == Reaped(0, 0, 0)


def test_a_worker_reported_dead_by_mistake_may_settle_until_it_is_reaped(lab: Lab) -> None:
    lab.submit(2)
    claimed = lab.claim(token="a")
    lab.orphan("a")
    assert lab.settle(claimed)
    assert lab.reap() == Reaped(0, 0, 0)


def test_an_orphan_that_was_its_jobs_last_attempt_fails_with_its_cause(lab: Lab) -> None:
    (uid,) = lab.submit()
    lab.claim(token="a")
    lab.orphan("a", "killed by SIGSEGV")
    assert lab.reap(max_attempts=1) == Reaped(1, 0, 1)
    record = lab.record(uid)
    assert record.state is State.FAILED
    assert [event.cause for event in record.history] == ["killed by SIGSEGV"]
