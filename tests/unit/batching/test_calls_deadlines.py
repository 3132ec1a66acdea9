"""Deadlines: the index of waiting jobs that have one, and jobs that end without a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from umbel_batching import replies
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import State

if TYPE_CHECKING:
    from tests.unit.batching.conftest import Lab

CLIENT = "c" * 16
#: Jobs whose deadline is this near do not wait for neighbours.
MARGIN_MS = 250
TTL_S = 100


def deadlines(lab: Lab) -> dict[str, int]:
    pairs = lab.client.zrange(lab.keys.deadlines, 0, -1, withscores=True)
    return {uid.decode(): int(at) for uid, at in pairs}


def expected(lab: Lab) -> dict[str, int]:
    """The index as the records of waiting jobs say it must be."""
    records = {uid: lab.record(uid) for uid in lab.waiting()}
    return {uid: record.deadline_ms for uid, record in records.items() if record.deadline_ms}


def test_only_waiting_jobs_with_a_deadline_are_in_the_index(lab: Lab) -> None:
    timed = lab.submit(5, timeout_ms=60_000)
    lab.submit(3)
    assert set(deadlines(lab)) == set(timed)
    assert deadlines(lab) == expected(lab)
    claimed = lab.claim()
    assert deadlines(lab) == expected(lab)
    assert set(deadlines(lab)) == set(timed[4:])
    lab.cancel(timed[4])
    assert deadlines(lab) == {}
    lab.lose(claimed)
    assert deadlines(lab) == expected(lab)
    assert set(deadlines(lab)) == set(timed[:4])
    lab.claim()
    lab.hand_back()
    assert set(deadlines(lab)) == set(timed[:4])
    assert deadlines(lab) == expected(lab)


def test_a_mixed_claim_takes_its_jobs_out_of_the_index(lab: Lab) -> None:
    timed = lab.submit(2, timeout_ms=60_000)
    plain = lab.submit(2)
    assert lab.claim().uids == timed + plain
    assert lab.client.exists(lab.keys.deadlines) == 0


def test_a_replayed_job_has_no_deadline_any_more(lab: Lab) -> None:
    (uid,) = lab.submit(timeout_ms=60_000)
    lab.lose(lab.claim(), max_attempts=1)
    assert lab.replay(uid).done
    assert lab.record(uid).deadline_ms == 0
    assert deadlines(lab) == {}


def test_expire_ends_overdue_jobs_without_a_worker(lab: Lab) -> None:
    late = lab.submit(3, meta=b"\x81\xa1a\x01", reply=CLIENT, timeout_ms=60_000)
    kept = lab.submit(1, timeout_ms=60_000) + lab.submit(1)
    heard = lab.listen(CLIENT)
    for uid in late:
        lab.past_deadline(uid)
    assert lab.expire() == 3
    assert lab.waiting() == kept
    assert deadlines(lab) == expected(lab)
    record = lab.record(late[0])
    assert (record.state, record.attempts, bytes(record.body)) == (State.EXPIRED, 0, b"")
    assert (record.metadata, record.reply) == ({"a": 1}, CLIENT)
    assert 0 < lab.client.ttl(lab.keys.job + late[0]) <= TTL_S
    assert lab.counter("expired") == 3
    size = sum(lab.client.strlen(lab.keys.job + uid) for uid in kept)
    assert lab.counter("bytes") == size
    ids = [f"{lab.slot}-{uid}" for uid in late]
    assert sorted(uid for _, raw in heard() for uid in replies.read(raw)[1]) == sorted(ids)
    assert lab.expire() == 0


def test_expire_is_bounded(lab: Lab) -> None:
    for uid in lab.submit(7, timeout_ms=60_000):
        lab.past_deadline(uid)
    assert [lab.expire(3) for _ in range(4)] == [3, 3, 1, 0]
    assert lab.client.exists(lab.keys.waiting, lab.keys.deadlines) == 0


def test_expire_leaves_running_jobs_alone(lab: Lab) -> None:
    (uid,) = lab.submit(timeout_ms=60_000)
    claimed = lab.claim()
    lab.past_deadline(uid)
    assert lab.expire() == 0
    assert lab.settle(claimed)
    assert lab.state(uid) is State.SUCCEEDED


def test_expire_passes_over_what_does_not_wait(lab: Lab) -> None:
    """An entry without a waiting job, as after a partial loss of data, is removed."""
    lab.submit()
    lab.client.zadd(lab.keys.deadlines, {"0" * 32: 1})
    assert lab.expire() == 0
    assert lab.client.exists(lab.keys.deadlines) == 0
    assert len(lab.waiting()) == 1


@pytest.mark.parametrize(("timeout_ms", "early"), [(10_000, True), (MARGIN_MS // 2, False)])
def test_a_deadline_makes_a_lane_due_before_its_wait_is_over(
    make_lab: type[Lab], timeout_ms: int, early: bool
) -> None:
    lab = make_lab(BatchPolicy(max_wait_ms=600_000))
    (uid,) = lab.submit(timeout_ms=timeout_ms)
    record = lab.record(uid)
    due = record.deadline_ms - MARGIN_MS if early else record.created_ms
    assert lab.next_look() == due
    assert lab.flush().sent == (0 if early else 1)
    if early:
        assert (lab.next_look() or 0) <= lab.now() + 2_000
        lab.set_deadline(uid, lab.now() + MARGIN_MS - 1)
        assert lab.flush().sent == 1
    assert lab.claim().reason == "deadline"


def test_a_flusher_is_woken_for_a_deadline_while_others_wait(make_lab: type[Lab]) -> None:
    lab = make_lab(BatchPolicy(max_wait_ms=600_000))
    lab.submit()
    lab.client.delete(lab.shared.signal)
    (uid,) = lab.submit(timeout_ms=5_000)
    assert lab.next_look() == lab.record(uid).deadline_ms - MARGIN_MS
    assert lab.client.exists(lab.shared.signal) == 1


def test_a_flusher_is_woken_for_a_deadline_while_every_slot_is_busy(lab: Lab) -> None:
    """No drain may come by in time: somebody must end the job all the same."""
    lab.submit(4)
    lab.claim()
    lab.client.zadd(lab.shared.wake, {lab.slot: 10**13})
    (uid,) = lab.submit(timeout_ms=5_000)
    assert lab.next_look() == lab.record(uid).deadline_ms - MARGIN_MS


@pytest.mark.parametrize(
    ("count", "age_ms", "reason"), [(4, 5_000, "size"), (3, 5_000, "timeout"), (3, 0, "deadline")]
)
def test_the_reason_tells_the_first_cause(lab: Lab, count: int, age_ms: int, reason: str) -> None:
    uids = lab.submit(count, timeout_ms=60_000)
    lab.age(uids[0], age_ms)
    lab.set_deadline(uids[1], lab.now() + 100)
    assert lab.claim().reason == reason


def test_the_near_deadline_of_a_job_that_stays_is_no_reason(make_lab: type[Lab]) -> None:
    lab = make_lab(BatchPolicy(max_batch_size=4, max_wait_ms=600_000))
    lost = lab.submit(2)
    lab.lose(lab.claim())
    (uid,) = lab.submit(timeout_ms=60_000)
    lab.set_deadline(uid, lab.now() + 100)
    claimed = lab.claim()
    assert claimed.uids == lost[:1]
    assert claimed.reason == "drain"


def test_overdue_jobs_are_reported_to_the_flusher(lab: Lab) -> None:
    uids = lab.submit(3, timeout_ms=60_000)
    for uid in uids[:2]:
        lab.past_deadline(uid)
    assert lab.flush().overdue == 2


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("waits", [0, 600_000])
@pytest.mark.parametrize("running", [False, True])
def test_after_tidying_the_next_look_is_in_the_future(
    make_lab: type[Lab], slots: int, waits: int, running: bool
) -> None:
    """Otherwise the flusher runs in circles at full speed."""
    lab = make_lab(BatchPolicy(max_batch_size=4, max_wait_ms=waits))
    if running:
        lab.submit(4)
        lab.claim()
    late = lab.submit(3, timeout_ms=60_000)
    soon = lab.submit(2, timeout_ms=60_000)
    for uid in late:
        lab.past_deadline(uid)
    for uid in soon:
        lab.set_deadline(uid, lab.now() + 60_000)
    tokens = [f"t{at}" for at in range(4)]
    flush = lab.flush(slots=slots, tokens=tokens)
    assert flush.overdue == 3
    lab.expire()
    assert lab.flush(slots=slots, tokens=tokens).overdue == 0
    assert (lab.next_look() or 0) >= lab.now()


def test_after_reaping_the_next_look_is_in_the_future(lab: Lab) -> None:
    lab.submit(8, timeout_ms=60_000)
    lab.client.zadd(lab.keys.leases, {lab.claim().batch: 1})
    assert lab.flush().expired == 1
    lab.reap()
    lab.client.delete(lab.keys.drains)
    before = lab.now()
    assert lab.flush().expired == 0
    assert (lab.next_look() or 0) > before


def test_a_lane_whose_jobs_all_expired_leaves_the_list(lab: Lab) -> None:
    for uid in lab.submit(3, timeout_ms=60_000):
        lab.past_deadline(uid)
    lab.flush()
    lab.expire()
    lab.client.delete(lab.keys.sent)
    assert lab.flush().sent == 0
    assert lab.next_look() is None
