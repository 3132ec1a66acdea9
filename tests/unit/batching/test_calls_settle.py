"""Settling: one visible result per job, under the fence, and counted once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from umbel_batching import replies
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import State

if TYPE_CHECKING:
    from tests.unit.batching.conftest import Lab

ALICE, BOB = "a" * 16, "b" * 16
TTL_S, DEAD_S = 100, 10_000


def _counts(lab: Lab) -> dict[str, int]:
    names = ("submitted", "succeeded", "failed", "expired", "cancelled", "batches", "bytes")
    return {name: count for name in names if (count := lab.counter(name))}


def test_outcomes_are_written_and_kept_for_their_time(lab: Lab) -> None:
    good, bad = lab.submit(2, meta=b"\x81\xa1a\x01")
    claimed = lab.claim()
    assert lab.settle(claimed, failing=[bad])
    assert (lab.state(good), lab.state(bad)) == (State.SUCCEEDED, State.FAILED)
    record = lab.record(good)
    assert (bytes(record.body), record.metadata, record.batch) == (b"done", {"a": 1}, claimed.batch)
    assert 0 < lab.client.ttl(lab.keys.job + good) <= TTL_S
    for key in (lab.keys.job + bad, lab.keys.batch + claimed.batch):
        assert TTL_S < lab.client.ttl(key) <= DEAD_S
    assert lab.client.exists(lab.keys.leases, lab.keys.waiting) == 0
    assert _counts(lab) == {"submitted": 2, "succeeded": 1, "failed": 1, "batches": 1}
    batch = lab.client.hmget(lab.keys.batch + claimed.batch, "compute_us", "settled")
    assert batch[0] == b"1500"
    assert int(batch[1]) >= claimed.started_ms


def test_a_batch_without_a_failure_is_kept_as_long_as_its_results(lab: Lab) -> None:
    lab.submit(2)
    claimed = lab.claim()
    lab.settle(claimed)
    assert 0 < lab.client.ttl(lab.keys.batch + claimed.batch) <= TTL_S


def test_settling_again_changes_nothing(lab: Lab) -> None:
    lab.submit(3, reply=ALICE)
    claimed = lab.claim()
    heard = lab.listen(ALICE)
    assert lab.settle(claimed)
    counts = _counts(lab)
    assert len(heard()) == 1
    assert lab.settle(claimed, failing=claimed.uids)
    assert _counts(lab) == counts
    assert heard() == []
    assert lab.state(claimed.uids[0]) is State.SUCCEEDED


def test_a_zombie_writes_nothing(lab: Lab) -> None:
    lab.submit(3, reply=ALICE)
    zombie = lab.claim()
    lab.lose(zombie)
    heard = lab.listen(ALICE)
    before = lab.client.get(lab.keys.job + zombie.uids[0])
    assert not lab.settle(zombie)
    assert lab.client.get(lab.keys.job + zombie.uids[0]) == before
    heir = lab.claim()
    assert not lab.settle(zombie)
    assert lab.settle(heir)
    assert not lab.settle(zombie, failing=zombie.uids)
    assert lab.state(heir.uids[0]) is State.SUCCEEDED
    assert len(heard()) == 1


def test_a_batch_nobody_claimed_settles_nothing(lab: Lab) -> None:
    lab.submit(2)
    claimed = lab.claim()
    outcome = lab.outcome(claimed)
    assert not lab.runner.run(lab.calls.settle(lab.slot, "f" * 32, outcome))
    assert lab.state(claimed.uids[0]) is State.RUNNING


def test_each_client_hears_of_its_own_jobs(lab: Lab) -> None:
    (for_alice,), (for_bob,), _ = (lab.submit(reply=ALICE), lab.submit(reply=BOB), lab.submit())
    heard = lab.listen(ALICE, BOB)
    lab.settle(lab.claim(), failing=[for_bob])
    messages = dict(heard())
    ((alices, outcome),) = replies.read(messages[ALICE])[0]
    assert (alices, outcome.state, outcome.body) == (
        f"{lab.slot}-{for_alice}",
        State.SUCCEEDED,
        b"done",
    )
    ((bobs, outcome),) = replies.read(messages[BOB])[0]
    assert (bobs, outcome.state) == (f"{lab.slot}-{for_bob}", State.FAILED)


def test_a_job_cancelled_while_it_ran_stays_cancelled(lab: Lab) -> None:
    kept, gone = lab.submit(2, reply=ALICE)
    (other,) = lab.submit(reply=BOB)
    claimed = lab.claim()
    lab.cancel(gone)
    heard = lab.listen(ALICE, BOB)
    assert lab.settle(claimed)
    states = [lab.state(uid) for uid in (kept, gone, other)]
    assert states == [State.SUCCEEDED, State.CANCELLED, State.SUCCEEDED]
    assert _counts(lab) == {"submitted": 3, "succeeded": 2, "cancelled": 1, "batches": 1}
    messages = dict(heard())
    assert messages[ALICE][:1] == messages[BOB][:1] == b"?"
    _, alices = replies.read(messages[ALICE])
    assert f"{lab.slot}-{kept}" in alices
    assert f"{lab.slot}-{other}" not in alices
    assert replies.read(messages[BOB]) == ([], [f"{lab.slot}-{other}"])


@pytest.mark.parametrize("others_fail", [False, True])
def test_a_cancelled_job_is_counted_once_whatever_became_of_it(lab: Lab, others_fail: bool) -> None:
    gone, kept = lab.submit(2)
    claimed = lab.claim()
    lab.cancel(gone)
    lab.settle(claimed, failing=[gone, kept] if others_fail else [gone])
    expected = {"submitted": 2, "cancelled": 1, "batches": 1}
    assert _counts(lab) == expected | {"failed" if others_fail else "succeeded": 1}


def test_a_batch_that_was_cancelled_as_a_whole_settles(lab: Lab) -> None:
    lab.submit(4)
    claimed = lab.claim()
    for uid in claimed.uids:
        assert lab.cancel(uid) == (True, State.RUNNING)
    assert lab.settle(claimed)
    assert _counts(lab) == {"submitted": 4, "cancelled": 4, "batches": 1}
    assert lab.client.exists(lab.keys.leases) == 0


def test_the_rate_is_measured_over_a_second(lab: Lab) -> None:
    lab.submit(8)
    lab.settle(lab.claim())
    assert lab.client.hget(lab.keys.lane, "rate") is None
    seconds, _ = lab.client.time()
    lab.client.hset(lab.keys.lane, mapping={"rate_from": (seconds - 10) * 1000, "rate_jobs": 96})
    lab.settle(lab.claim())
    rate = lab.client.hget(lab.keys.lane, "rate")
    assert 9 < float(rate) <= 10
    assert lab.counter("rate_jobs") == 0


def test_one_client_per_job_of_a_large_batch(make_lab: type[Lab]) -> None:
    """One cancelled job must not make every client read the whole batch."""
    lab = make_lab(BatchPolicy(max_batch_size=512))
    clients = [f"{at:016d}" for at in range(512)]
    uids = [lab.submit(reply=client)[0] for client in clients]
    claimed = lab.claim()
    lab.cancel(uids[0])
    heard = lab.listen(*clients[1:])
    assert lab.settle(claimed)
    messages = dict(heard())
    assert len(messages) == 511
    assert {len(message) for message in messages.values()} == {1 + 8 + 32}


@pytest.mark.parametrize("claimed_first", [False, True])
def test_cancelling_a_live_job(lab: Lab, claimed_first: bool) -> None:
    keep, uid = lab.submit(2, meta=b"\x81\xa1a\x01", reply=ALICE)
    claimed = lab.claim() if claimed_first else None
    heard = lab.listen(ALICE)
    found = State.RUNNING if claimed_first else State.QUEUED
    assert lab.cancel(uid) == (True, found)
    assert lab.cancel(uid) == (False, State.CANCELLED)
    record = lab.record(uid)
    assert (record.state, record.metadata, bytes(record.body)) == (State.CANCELLED, {"a": 1}, b"")
    assert record.finished_ms >= record.created_ms
    assert 0 < lab.client.ttl(lab.keys.job + uid) <= 100
    assert [replies.read(raw) for _, raw in heard()] == [([], [f"{lab.slot}-{uid}"])]
    assert lab.settle(claimed or lab.claim())
    assert _counts(lab) == {"submitted": 2, "succeeded": 1, "cancelled": 1, "batches": 1}
    assert lab.state(keep) is State.SUCCEEDED


def test_cancelling_a_job_that_ended_changes_nothing(lab: Lab) -> None:
    good, bad = lab.submit(2)
    lab.settle(lab.claim(), failing=[bad])
    assert lab.cancel(good) == (False, State.SUCCEEDED)
    assert lab.cancel(bad) == (False, State.FAILED)
    assert lab.cancel("0" * 32) == (False, None)
    assert lab.counter("cancelled") == 0


def test_cancelling_the_last_waiting_job_empties_the_lane(lab: Lab) -> None:
    (uid,) = lab.submit()
    lab.cancel(uid)
    assert (lab.waiting(), lab.counter("bytes")) == ([], 0)
    assert lab.claim().uids == []


def test_a_job_that_waits_again_can_be_cancelled(lab: Lab) -> None:
    uids = lab.submit(2)
    lab.lose(lab.claim())
    assert lab.cancel(uids[0]) == (True, State.QUEUED)
    assert lab.claim().uids == [uids[1]]
    assert lab.counter("bytes") == 0
