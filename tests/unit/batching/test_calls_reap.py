"""Reaping: lost batches run again in halves, then alone, and a job that kills fails alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from umbel_batching import replies
from umbel_batching.calls import LOST
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import Failure, State
from umbel_batching.values import Reaped

if TYPE_CHECKING:
    from tests.unit.batching.conftest import Lab

CLIENT = "c" * 16
TTL_S, DEAD_S = 100, 10_000


def test_a_live_lease_is_left_alone(lab: Lab) -> None:
    lab.submit()
    lab.claim()
    assert lab.reap() == Reaped(0, 0, 0)


def test_a_lost_batch_waits_again_in_its_old_place(lab: Lab) -> None:
    uids = lab.submit(4, payload=b"payload", meta=b"\x80")
    size = lab.counter("bytes")
    claimed = lab.claim()
    later = lab.submit(1)
    assert lab.lose(claimed) == Reaped(1, 4, 0)
    assert lab.waiting() == uids + later
    record = lab.record(uids[0])
    assert (record.state, record.attempts, record.cap) == (State.QUEUED, 1, 2)
    assert bytes(record.body) == b"payload"
    assert lab.counter("bytes") > size
    assert lab.counter("leases_lost") == 1
    assert TTL_S < lab.client.ttl(lab.keys.batch + claimed.batch) <= DEAD_S
    assert lab.client.hget(lab.keys.batch + claimed.batch, "lost") is not None


def test_a_lost_batch_is_due_at_once(lab: Lab) -> None:
    lab.submit()
    claimed = lab.claim()
    lab.client.delete(lab.shared.wake, lab.shared.signal)
    lab.lose(claimed)
    due = lab.runner.run(lab.calls.due(10))
    assert due.slots == [lab.slot]
    assert lab.client.zcard(lab.shared.signal) == 1


def test_a_job_that_kills_its_worker_fails_alone(make_lab: type[Lab]) -> None:
    lab = make_lab(BatchPolicy(max_batch_size=8))
    uids = lab.submit(8, reply=CLIENT)
    killer = uids[5]
    sizes, killed = [], []
    while (claimed := lab.claim()).uids:
        sizes.append(len(claimed.uids))
        if killer in claimed.uids:
            killed.append(len(claimed.uids))
            lab.lose(claimed)
        else:
            lab.settle(claimed)
    assert killed == [8, 4, 1]
    assert sizes == [8, 4, 4, 1, 1, 1, 1]
    assert lab.state(killer) is State.FAILED
    assert {lab.state(uid) for uid in uids if uid != killer} == {State.SUCCEEDED}
    record = lab.record(killer)
    assert msgspec.msgpack.decode(record.body, type=Failure) == LOST
    assert record.attempts == 3
    assert record.finished_ms >= record.created_ms
    assert TTL_S < lab.client.ttl(lab.keys.job + killer) <= DEAD_S
    counts = {name: lab.counter(name) for name in ("succeeded", "failed", "leases_lost", "bytes")}
    assert counts == {"succeeded": 7, "failed": 1, "leases_lost": 3, "bytes": 0}


def test_a_client_hears_of_a_job_that_failed_with_its_workers(lab: Lab) -> None:
    (uid,) = lab.submit(reply=CLIENT)
    claimed = lab.claim()
    heard = lab.listen(CLIENT)
    assert lab.lose(claimed, max_attempts=1) == Reaped(1, 0, 1)
    assert [replies.read(raw) for _, raw in heard()] == [([], [f"{lab.slot}-{uid}"])]


@pytest.mark.parametrize(("max_attempts", "caps"), [(1, []), (2, [1]), (4, [2, 1, 1])])
def test_the_last_attempt_is_made_alone(lab: Lab, max_attempts: int, caps: list[int]) -> None:
    (uid, *_) = lab.submit(4)
    seen = []
    lab.lose(lab.claim(), max_attempts=max_attempts)
    while lab.state(uid) is State.QUEUED:
        seen.append(lab.record(uid).cap)
        claimed = lab.claim()
        assert len(claimed.uids) <= seen[-1]
        lab.lose(claimed, max_attempts=max_attempts)
    assert seen == caps
    assert lab.state(uid) is State.FAILED


def test_jobs_that_left_a_lost_batch_stay_where_they_are(lab: Lab) -> None:
    kept, gone = lab.submit(2)
    claimed = lab.claim()
    lab.cancel(gone)
    assert lab.lose(claimed) == Reaped(1, 1, 0)
    assert lab.waiting() == [kept]
    assert lab.state(gone) is State.CANCELLED


def test_only_as_many_batches_as_asked_for_are_taken_back(lab: Lab) -> None:
    lab.submit(12)
    for _ in range(3):
        lab.client.zadd(lab.keys.leases, {lab.claim().batch: 1})
    assert lab.reap(limit=2) == Reaped(2, 8, 0)
    assert lab.reap(limit=2) == Reaped(1, 4, 0)
    assert lab.reap(limit=2) == Reaped(0, 0, 0)


def test_one_call_takes_a_bounded_number_of_jobs_back(make_lab: type[Lab]) -> None:
    """Else thirty large batches would hold up the whole server for seconds."""
    lab = make_lab(BatchPolicy(max_batch_size=2_048))
    lab.submit(3 * 2_048)
    for _ in range(3):
        lab.client.zadd(lab.keys.leases, {lab.claim().batch: 1})
    assert [lab.reap(), lab.reap()] == [Reaped(2, 4_096, 0), Reaped(1, 2_048, 0)]
    assert lab.counter("leases_lost") == 3


def test_a_reaped_batch_cannot_be_renewed(lab: Lab) -> None:
    lab.submit()
    claimed = lab.claim()
    lab.lose(claimed)
    renew = lab.calls.renew(lab.slot, batch=claimed.batch, token="drain", lease_ms=1_000)
    assert not lab.runner.run(renew)


def test_an_expired_lease_holds_until_it_is_reaped(lab: Lab) -> None:
    lab.submit(2)
    claimed = lab.claim()
    lab.client.zadd(lab.keys.leases, {claimed.batch: 1})
    assert lab.settle(claimed)
    assert lab.reap() == Reaped(0, 0, 0)


def test_a_job_past_its_deadline_is_not_run_again(lab: Lab) -> None:
    (uid,) = lab.submit(timeout_ms=1_000)
    lab.lose(lab.claim())
    lab.past_deadline(uid)
    assert lab.claim().uids == []
    assert lab.state(uid) is State.EXPIRED
    assert lab.counter("bytes") == 0
