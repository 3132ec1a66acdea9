"""Claiming: the oldest jobs, once, under a lease, and without those that came too late."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from umbel_batching import replies
from umbel_batching.lanes import new_uid
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import HEAD, State, parse

if TYPE_CHECKING:
    from tests.unit.batching.conftest import Lab

CLIENT = "c" * 16


def test_a_claim_takes_the_oldest_jobs(lab: Lab) -> None:
    uids = lab.submit(6)
    claimed = lab.claim()
    assert (claimed.uids, claimed.left, claimed.reason) == (uids[:4], 2, "size")
    assert lab.waiting() == uids[4:]
    assert claimed.oldest_ms == lab.record(uids[0]).created_ms <= claimed.started_ms
    for uid, raw in zip(claimed.uids, claimed.records, strict=True):
        record = parse(raw)
        assert raw == lab.client.get(lab.keys.job + uid)
        assert (record.state, record.attempts, record.batch) == (State.RUNNING, 1, claimed.batch)
        assert bytes(record.body) == b"payload"


def test_a_batch_notes_who_runs_it_and_why(lab: Lab) -> None:
    uids = lab.submit(2)
    claimed = lab.claim()
    batch = lab.client.hgetall(lab.keys.batch + claimed.batch)
    assert {name.decode(): value.decode() for name, value in batch.items()} == {
        "uids": " ".join(uids),
        "size": "2",
        "worker": "w1",
        "token": "drain",
        "reason": "drain",
        "oldest": str(claimed.oldest_ms),
        "started": str(claimed.started_ms),
    }
    expiry = claimed.started_ms + 60_000
    assert lab.client.zscore(lab.keys.leases, claimed.batch) == expiry
    assert lab.client.zscore(lab.keys.drains, "drain") == expiry


@pytest.mark.parametrize(
    ("count", "age_ms", "reason"),
    [(4, 0, "size"), (5, 5_000, "size"), (3, 1_000, "timeout"), (3, 0, "drain")],
)
def test_a_claim_says_why_it_was_due(lab: Lab, count: int, age_ms: int, reason: str) -> None:
    lab.age(lab.submit(count)[0], age_ms)
    assert lab.claim().reason == reason


def test_an_empty_lane_ends_the_drain(lab: Lab) -> None:
    lab.submit()
    lab.client.zadd(lab.keys.sent, {"drain": 10**13})
    lab.claim()
    assert lab.client.zcard(lab.keys.drains) == 1
    claimed = lab.claim()
    assert (claimed.uids, claimed.records, claimed.left, claimed.reason) == ([], [], 0, "")
    assert lab.client.exists(lab.keys.drains, lab.keys.sent) == 0


def test_the_last_drain_takes_the_lane_off_the_list(lab: Lab) -> None:
    lab.submit(8)
    first, second = lab.claim(token="a"), lab.claim(token="b")
    lab.settle(first)
    lab.claim(token="a")
    assert lab.client.zscore(lab.shared.wake, lab.slot) is not None
    lab.settle(second)
    lab.claim(token="b")
    assert lab.client.exists(lab.shared.wake) == 0


def test_a_lane_nobody_knows_is_empty(lab: Lab) -> None:
    assert lab.claim().left == 0
    assert lab.client.keys() == []


def test_asking_again_returns_the_same_batch(lab: Lab) -> None:
    lab.submit(6)
    batch = new_uid()
    first, second = lab.claim(batch), lab.claim(batch)
    assert first == second
    assert lab.record(first.uids[0]).attempts == 1
    assert len(lab.waiting()) == 2


def test_asking_again_leaves_out_what_was_cancelled_meanwhile(lab: Lab) -> None:
    uids = lab.submit(3)
    batch = new_uid()
    lab.claim(batch)
    lab.cancel(uids[1])
    again = lab.claim(batch)
    assert again.uids == [uids[0], uids[2]]
    assert [parse(raw).state for raw in again.records] == [State.RUNNING] * 2


def test_asking_again_after_the_lease_was_lost_returns_nothing(lab: Lab) -> None:
    lab.submit(3)
    batch = new_uid()
    lab.lose(lab.claim(batch))
    again = lab.claim(batch)
    assert (again.uids, again.left) == ([], 3)


def test_a_claim_answers_the_hint(lab: Lab) -> None:
    lab.submit()
    lab.client.zadd(lab.keys.sent, {"drain": 10**13, "other": 10**13})
    lab.client.hset(lab.keys.lane, "unanswered", 5)
    lab.claim()
    assert lab.client.zrange(lab.keys.sent, 0, -1) == [b"other"]
    assert lab.counter("unanswered") == 0


def test_jobs_past_their_deadline_are_not_computed(lab: Lab) -> None:
    uids = lab.submit(4, meta=b"\x81\xa1a\x01", reply=CLIENT, timeout_ms=1_000)
    heard = lab.listen(CLIENT)
    lab.past_deadline(uids[1])
    claimed = lab.claim()
    assert claimed.uids == [uids[0], uids[2], uids[3]]
    expired = lab.record(uids[1])
    assert (expired.state, expired.attempts, bytes(expired.body)) == (State.EXPIRED, 0, b"")
    assert (expired.metadata, expired.reply) == ({"a": 1}, CLIENT)
    assert expired.finished_ms == claimed.started_ms
    assert 0 < lab.client.ttl(lab.keys.job + uids[1]) <= 100
    assert (lab.counter("expired"), lab.counter("bytes")) == (1, 0)
    assert [replies.read(raw) for _, raw in heard()] == [([], [f"{lab.slot}-{uids[1]}"])]


def test_expired_jobs_alone_make_no_batch(lab: Lab) -> None:
    uids = lab.submit(5, timeout_ms=1_000)
    for uid in uids:
        lab.past_deadline(uid)
    first, second = lab.claim(), lab.claim()
    assert (first.uids, first.left) == ([], 1)
    assert (second.uids, second.left) == ([], 0)
    assert lab.client.exists(lab.keys.leases, lab.keys.drains, lab.keys.waiting) == 0
    assert (lab.counter("expired"), lab.counter("bytes")) == (5, 0)


def test_the_oldest_job_of_a_batch_is_one_of_its_jobs(lab: Lab) -> None:
    late, kept = lab.submit(2, timeout_ms=1_000)
    lab.age(late, 50_000)
    lab.past_deadline(late)
    claimed = lab.claim()
    assert claimed.uids == [kept]
    assert claimed.oldest_ms == lab.record(kept).created_ms
    assert claimed.reason == "drain"


def test_a_job_without_a_record_is_passed_over(lab: Lab) -> None:
    uids = lab.submit(3)
    lab.client.delete(lab.keys.job + uids[0])
    assert lab.claim().uids == uids[1:]


def test_a_batch_may_hold_thousands_of_jobs(make_lab: type[Lab]) -> None:
    lab = make_lab(BatchPolicy(max_batch_size=4096))
    uids = lab.submit(5_000)
    batch = new_uid()
    claimed = lab.claim(batch)
    assert (claimed.uids, claimed.left) == (uids[:4096], 904)
    assert lab.claim(batch) == claimed
    assert lab.lose(claimed).again == 4096
    assert lab.waiting() == uids
    again = lab.claim()
    assert again.uids == uids[:2048]
    assert lab.settle(again)
    while (claimed := lab.claim()).uids:
        assert lab.settle(claimed)
    assert (lab.counter("succeeded"), lab.counter("bytes")) == (5_000, 0)


def test_jobs_of_one_kind_share_a_batch(lab: Lab) -> None:
    """After a loss the halves stand first in the lane; fresh jobs do not join them."""
    old = lab.submit(4)
    lab.lose(lab.claim())
    fresh = lab.submit(3)
    batches = [lab.claim().uids for _ in range(3)]
    assert batches == [old[:2], old[2:], fresh]


def test_payloads_may_hold_any_bytes(lab: Lab) -> None:
    payload = bytes(range(256)) * 3
    lab.submit(payload=payload, meta=b"\x80")
    (raw,) = lab.claim().records
    assert raw[HEAD + 1 :] == payload


def test_a_lease_keeps_the_lane_on_the_list(lab: Lab) -> None:
    lab.submit()
    lab.client.delete(lab.shared.wake)
    claimed = lab.claim(lease_ms=500)
    assert lab.client.zscore(lab.shared.wake, lab.slot) == claimed.started_ms + 500


def test_a_running_batch_can_be_renewed(lab: Lab) -> None:
    lab.submit()
    claimed = lab.claim(lease_ms=500)
    renew = lab.calls.renew(lab.slot, batch=claimed.batch, token="drain", lease_ms=90_000)
    assert lab.runner.run(renew)
    for key, member in ((lab.keys.leases, claimed.batch), (lab.keys.drains, "drain")):
        score = lab.client.zscore(key, member)
        assert score >= claimed.started_ms + 90_000
    lab.settle(claimed)
    assert not lab.runner.run(renew)
    assert lab.client.zcard(lab.keys.leases) == 0
