"""Submitting: all or none, once however often it is sent, and never over the lane's bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from umbel_batching.lanes import Lane, new_uid
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import HEAD, NO_REPLY, State, tail
from umbel_batching.retention import Retention
from umbel_batching.values import Accepted, NewJob
from umbel_config.errors import ConfigError, LaneFull

if TYPE_CHECKING:
    from tests.unit.batching.conftest import Lab

PAYLOAD = b"payload"
RECORD_BYTES = HEAD + len(PAYLOAD)


def test_a_submitted_job_waits(lab: Lab) -> None:
    first, second = lab.submit(2, meta=b"\x81\xa1a\x01", timeout_ms=5_000)
    assert lab.waiting() == [first, second]
    record = lab.record(first)
    assert (record.state, record.attempts, record.cap, record.batch) == (
        State.QUEUED,
        0,
        0,
        "",
    )
    assert (record.metadata, bytes(record.body)) == ({"a": 1}, PAYLOAD)
    assert record.deadline_ms == record.created_ms + 5_000
    assert lab.client.zscore(lab.keys.waiting, first) == record.created_ms


def test_the_reply_is_the_depth(lab: Lab) -> None:
    lab.submit(3)
    job = NewJob(new_uid(), tail(NO_REPLY, b"") + PAYLOAD)
    assert lab.runner.run(lab.calls.submit(lab.lane, [job])) == Accepted(4)


def test_the_first_job_makes_the_lane(lab: Lab) -> None:
    lab.submit()
    assert lab.client.hgetall(lab.shared.lanes) == {lab.slot.encode(): b"digits@1"}
    fields = lab.client.hgetall(lab.keys.lane)
    assert {name.decode(): value.decode() for name, value in fields.items()} == {
        "name": "digits@1",
        "queue": "umbel",
        "max_batch_size": "4",
        "max_wait_ms": "1000",
        "max_queue": "100",
        "max_queue_bytes": str(2**30),
        "single_flight": "0",
        "cache_ttl_s": "0",
        "cache_entries": "10000",
        "cache_bytes": str(64 * 2**20),
        "look_ahead": "8",
        "max_batch_cost": "0",
        "latency_objective_ms": "0",
        "bytes": str(RECORD_BYTES),
        "submitted": "1",
    }


def test_a_lane_keeps_the_policy_it_has(lab: Lab) -> None:
    lab.submit()
    lab.lane = Lane(model="digits", version="1", policy=BatchPolicy(max_queue=1))
    lab.submit(5)
    assert len(lab.waiting()) == 6


@pytest.mark.parametrize("timeout_ms", [0, -5])
def test_no_timeout_is_no_deadline(lab: Lab, timeout_ms: int) -> None:
    assert lab.record(lab.submit(timeout_ms=timeout_ms)[0]).deadline_ms == 0


@pytest.mark.parametrize("timeout_ms", [10**13, 10**18])
def test_an_endless_timeout_does_not_break_the_record(lab: Lab, timeout_ms: int) -> None:
    (uid,) = lab.submit(timeout_ms=timeout_ms)
    record = lab.record(uid)
    assert (record.deadline_ms, bytes(record.body)) == (9_999_999_999_999, PAYLOAD)
    assert lab.claim().uids == [uid]


def test_sending_a_submit_again_changes_nothing(lab: Lab) -> None:
    jobs = [NewJob(new_uid(), tail(NO_REPLY, b"") + PAYLOAD) for _ in range(3)]
    call = lab.calls.submit(lab.lane, jobs)
    assert lab.runner.run(call) == lab.runner.run(call) == Accepted(3)
    claimed = lab.claim()
    assert lab.runner.run(call) == Accepted(0)
    assert lab.settle(claimed)
    assert lab.runner.run(call) == Accepted(0)
    assert lab.state(jobs[0].uid) is State.SUCCEEDED
    assert (lab.counter("submitted"), lab.counter("bytes")) == (3, 0)


def test_a_repeated_submit_is_not_refused_by_the_lane_it_filled(lab: Lab) -> None:
    jobs = [NewJob(new_uid(), tail(NO_REPLY, b"")) for _ in range(100)]
    call = lab.calls.submit(lab.lane, jobs)
    assert lab.runner.run(call) == lab.runner.run(call) == Accepted(100)


def test_submitting_no_jobs_does_nothing(lab: Lab) -> None:
    assert lab.runner.run(lab.calls.submit(lab.lane, [])) == Accepted(0)
    assert lab.client.keys() == []


def test_a_lane_full_of_jobs_takes_none_of_a_call(lab: Lab) -> None:
    lab.submit(99)
    before = lab.client.dbsize()
    with pytest.raises(LaneFull, match="99 jobs wait"):
        lab.submit(2)
    assert lab.client.dbsize() == before
    assert (lab.counter("submitted"), lab.counter("bytes")) == (99, 99 * RECORD_BYTES)
    lab.submit(1)
    assert len(lab.waiting()) == 100


def test_a_lane_full_of_bytes_takes_none_of_a_call(make_lab: type[Lab]) -> None:
    lab = make_lab(BatchPolicy(max_queue_bytes=3 * RECORD_BYTES))
    lab.submit(2)
    with pytest.raises(LaneFull):
        lab.submit(2)
    lab.submit(1)
    with pytest.raises(LaneFull):
        lab.submit(1, payload=b"")
    assert lab.counter("bytes") == 3 * RECORD_BYTES


def test_a_lane_of_one_takes_one(make_lab: type[Lab]) -> None:
    lab = make_lab(BatchPolicy(max_queue=1, max_batch_size=1))
    for _ in range(3):
        (uid,) = lab.submit()
        with pytest.raises(LaneFull):
            lab.submit()
        claimed = lab.claim()
        assert (claimed.uids, claimed.reason, claimed.left) == ([uid], "size", 0)
        assert lab.settle(claimed)
    assert lab.counter("bytes") == 0


@pytest.mark.parametrize(
    ("rate", "retry_after"),
    [(None, 1.0), ("0.0", 1.0), ("100.0", 0.1), ("1e9", 0.05), ("0.001", 60.0)],
)
def test_retry_after_follows_the_measured_rate(
    lab: Lab, rate: str | None, retry_after: float
) -> None:
    lab.submit(100)
    if rate is not None:
        lab.client.hset(lab.keys.lane, "rate", rate)
    with pytest.raises(LaneFull) as caught:
        lab.submit()
    assert caught.value.retry_after == pytest.approx(retry_after)


def test_two_lanes_of_one_slot_are_kept_apart(lab: Lab) -> None:
    lab.submit()
    lab.client.hset(lab.keys.lane, "name", "other@7")
    with pytest.raises(ConfigError, match=r"digits@1.*other@7"):
        lab.submit()
    assert len(lab.waiting()) == 1


def test_thousands_of_jobs_go_in_at_once(make_lab: type[Lab]) -> None:
    lab = make_lab(BatchPolicy(max_batch_size=4096))
    uids = lab.submit(9_001)
    assert lab.waiting() == uids
    assert lab.counter("bytes") == 9_001 * RECORD_BYTES


def _due(lab: Lab) -> int | None:
    score = lab.client.zscore(lab.shared.wake, lab.slot)
    return None if score is None else int(score)


def _signalled(lab: Lab) -> bool:
    """Whether a flusher was woken; reads the signal."""
    return bool(lab.client.zpopmin(lab.shared.signal))


def test_a_lane_is_due_when_its_oldest_job_has_waited(lab: Lab) -> None:
    (uid,) = lab.submit()
    due = lab.record(uid).created_ms + 1_000
    assert _due(lab) == due
    assert _signalled(lab)
    lab.submit()
    assert _due(lab) == due
    assert not _signalled(lab)


def test_a_full_lane_is_due_at_once(lab: Lab) -> None:
    first = lab.submit(3)[0]
    assert _signalled(lab)
    last = lab.submit()[0]
    assert lab.record(first).created_ms <= lab.record(last).created_ms == _due(lab)
    assert _signalled(lab)


def test_a_drain_at_work_is_not_disturbed(lab: Lab) -> None:
    lab.submit()
    lab.claim()
    due = _due(lab)
    assert _signalled(lab)
    lab.submit(10)
    assert _due(lab) == due
    assert not _signalled(lab)


def test_a_lane_with_work_is_due_even_if_it_fell_off_the_list(lab: Lab) -> None:
    lab.submit()
    lab.claim()
    lab.client.delete(lab.shared.wake)
    lab.submit()
    assert _due(lab) is not None


def test_a_free_slot_is_used_for_jobs_that_arrive_while_others_run(lab: Lab) -> None:
    lab.submit()
    lab.claim()
    lab.client.hset(lab.keys.lane, "slots", 2)
    lab.client.zadd(lab.shared.wake, {lab.slot: 10**13})
    (uid,) = lab.submit()
    assert _due(lab) == lab.record(uid).created_ms + 1_000


def test_a_repeated_call_is_known_though_its_first_job_has_expired(make_lab: type[Lab]) -> None:
    """Replies are waited for, and calls sent again, for longer than results may be kept."""
    lab = make_lab(BatchPolicy(max_batch_size=1), Retention(result_ttl_s=1))
    sent_at = lab.now() - 5_000
    uids = [f"{sent_at:012x}{new_uid()[12:]}" for _ in range(2)]
    call = lab.calls.submit(lab.lane, [NewJob(uid, tail(NO_REPLY, b"") + PAYLOAD) for uid in uids])
    lab.runner.run(call)
    lab.settle(lab.claim())
    lab.claim()
    lab.client.delete(lab.keys.job + uids[0])
    assert lab.runner.run(call) == Accepted(0)
    assert (lab.state(uids[0]), lab.state(uids[1])) == (None, State.RUNNING)


def test_a_repeated_call_does_not_bring_a_forgotten_job_back(lab: Lab) -> None:
    jobs = [NewJob(new_uid(), tail(NO_REPLY, b"") + PAYLOAD) for _ in range(3)]
    call = lab.calls.submit(lab.lane, jobs)
    lab.runner.run(call)
    lab.forget(jobs[1].uid)
    assert lab.runner.run(call) == Accepted(2)
    assert lab.waiting() == [jobs[0].uid, jobs[2].uid]
