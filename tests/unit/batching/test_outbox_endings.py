"""However a job ends, the same step puts its callback into the outbox, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from umbel_batching.outbox import OUTBOX, Verdict
from umbel_batching.record import State, encode_callback
from umbel_batching.retention import Retention
from umbel_config.errors import LaneFull, ReceiverFull

if TYPE_CHECKING:
    from tests.unit.batching.conftest import Desk, Lab

URL, QUEUE = "https://shop.example/done?a=b", "shop.example"
OTHER, OTHER_QUEUE = "https://bank.example:8443/in", "bank.example:8443"
CALLED, UNCALLED = encode_callback(URL), b""
TTL_S, TOMB_S, DEAD_S = 100, 1_000, 10_000
PENDING_S = Retention().pending_ttl_s
CALLBACK_KEYS = (
    "receivers",
    "outbox",
    "delivery",
    "underway",
    "parcel",
    "receiver",
    "callbacks",
    "owing",
)
SINGLE, CACHE = {"single_flight": True}, {"cache_ttl_s": 3_600}


def succeed(lab: Lab, callback: bytes) -> str:
    (uid,) = lab.submit(callback=callback)
    claimed = lab.claim()
    for _ in range(2):
        assert lab.settle(claimed)
    return uid


def fail(lab: Lab, callback: bytes) -> str:
    (uid,) = lab.submit(callback=callback)
    claimed = lab.claim()
    for _ in range(2):
        assert lab.settle(claimed, failing=[uid])
    return uid


def share_a_batch(lab: Lab, callback: bytes) -> str:
    """A twin in the same batch as the job that is computed in its place."""
    lab.submit()
    (uid,) = lab.submit(callback=callback)
    claimed = lab.claim()
    assert uid not in claimed.uids
    for _ in range(2):
        assert lab.settle(claimed)
    return uid


def share_a_failure(lab: Lab, callback: bytes) -> str:
    lab.submit()
    (uid,) = lab.submit(callback=callback)
    claimed = lab.claim()
    for _ in range(2):
        assert lab.settle(claimed, failing=claimed.uids)
    return uid


def join_a_batch(lab: Lab, callback: bytes) -> str:
    """A twin that came while the job in whose place it is not computed was running."""
    lab.submit()
    claimed = lab.claim()
    (uid,) = lab.submit(callback=callback)
    for _ in range(2):
        assert lab.claim().uids == []
    for _ in range(2):
        assert lab.settle(claimed)
    return uid


def find_it_at_submit(lab: Lab, callback: bytes) -> str:
    lab.submit()
    lab.settle(lab.claim())
    (uid,) = lab.submit(callback=callback)
    return uid


def find_it_at_claim(lab: Lab, callback: bytes) -> str:
    lab.submit()
    claimed = lab.claim()
    (uid,) = lab.submit(callback=callback)
    lab.settle(claimed)
    for _ in range(2):
        assert lab.claim().uids == []
    return uid


def expire(lab: Lab, callback: bytes) -> str:
    (uid,) = lab.submit(callback=callback, timeout_ms=60_000)
    lab.past_deadline(uid)
    assert [lab.expire(), lab.expire()] == [1, 0]
    return uid


def expire_at_claim(lab: Lab, callback: bytes) -> str:
    (uid,) = lab.submit(callback=callback, timeout_ms=60_000)
    lab.past_deadline(uid)
    for _ in range(2):
        assert lab.claim().uids == []
    return uid


def cancel(lab: Lab, callback: bytes) -> str:
    (uid,) = lab.submit(callback=callback)
    assert [lab.cancel(uid)[0], lab.cancel(uid)[0]] == [True, False]
    return uid


def cancel_running(lab: Lab, callback: bytes) -> str:
    """Its batch settles all the same, and posts nothing more."""
    (uid,) = lab.submit(callback=callback)
    claimed = lab.claim()
    assert [lab.cancel(uid)[0], lab.cancel(uid)[0]] == [True, False]
    lab.settle(claimed)
    return uid


def kill_its_workers(lab: Lab, callback: bytes) -> str:
    (uid,) = lab.submit(callback=callback)
    for _ in range(3):
        lab.lose(lab.claim())
        lab.reap()
    return uid


WAYS: list[tuple[Callable[[Lab, bytes], str], State, dict[str, Any]]] = [
    (succeed, State.SUCCEEDED, {}),
    (fail, State.FAILED, {}),
    (share_a_batch, State.SUCCEEDED, SINGLE),
    (share_a_failure, State.FAILED, SINGLE),
    (join_a_batch, State.SUCCEEDED, SINGLE),
    (find_it_at_submit, State.SUCCEEDED, CACHE),
    (find_it_at_claim, State.SUCCEEDED, CACHE),
    (expire, State.EXPIRED, {}),
    (expire_at_claim, State.EXPIRED, {}),
    (cancel, State.CANCELLED, {}),
    (cancel_running, State.CANCELLED, {}),
    (kill_its_workers, State.FAILED, {}),
]
ways = pytest.mark.parametrize(
    ("end", "state", "policy"), WAYS, ids=[way[0].__name__ for way in WAYS]
)
Way = Callable[["Lab", bytes], str]


@ways
def test_each_end_posts_one_callback(
    make_desk: Callable[..., Desk], end: Way, state: State, policy: dict[str, Any]
) -> None:
    desk = make_desk(**policy)
    before = desk.lab.now()
    uid = end(desk.lab, CALLED)
    assert desk.lab.state(uid) is state
    assert desk.queues() == {QUEUE: [desk.entry(uid)]}
    assert before <= desk.due(desk.entry(uid)) <= desk.lab.now()
    assert desk.lab.members(desk.shared.receivers) == [QUEUE]
    assert desk.state(uid) == "pending"
    assert desk.client.exists(desk.lab.keys.delivery + uid) == 0
    look = desk.look()
    assert look is not None
    assert look <= desk.lab.now()
    assert desk.client.exists(desk.shared.signal)


@ways
def test_each_end_keeps_its_time_and_its_record(
    make_desk: Callable[..., Desk], end: Way, state: State, policy: dict[str, Any]
) -> None:
    desk = make_desk(**policy)
    before = desk.lab.now()
    uid = end(desk.lab, CALLED)
    record = desk.lab.record(uid)
    assert before <= record.finished_ms <= desk.lab.now()
    assert record.callback_url == URL
    assert desk.ttls(uid) == (-1, -2)
    (post,) = desk.lease()
    assert desk.report(post) == []
    ttl, delivery_ttl = desk.ttls(uid)
    whole = DEAD_S if state is State.FAILED else TTL_S
    assert whole - 10 < ttl == delivery_ttl <= whole


@ways
def test_a_job_without_a_callback_leaves_the_outbox_alone(
    make_desk: Callable[..., Desk], end: Way, state: State, policy: dict[str, Any]
) -> None:
    desk = make_desk(**policy)
    uid = end(desk.lab, UNCALLED)
    assert desk.lab.state(uid) is state
    for name in CALLBACK_KEYS:
        prefix = getattr(desk.shared, name, None) or getattr(desk.lab.keys, name)
        assert desk.keys_of(prefix) == []
    assert desk.look() is None
    whole = DEAD_S if state is State.FAILED else TTL_S
    assert whole - 10 < desk.ttls(uid)[0] <= whole
    assert desk.state(uid) is None


@ways
def test_a_forgotten_job_has_no_callback(
    make_desk: Callable[..., Desk], end: Way, state: State, policy: dict[str, Any]
) -> None:
    desk = make_desk(**policy)
    uid = end(desk.lab, CALLED)
    for expected in (state, None):
        assert desk.lab.forget(uid) is expected
    assert desk.queues() == {}
    assert desk.redeliver(uid) == "unknown"


def test_all_of_a_batch_are_posted_each_to_its_receiver(desk: Desk) -> None:
    one, other = desk.submit(3), desk.submit(2, OTHER)
    together = desk.submit(2, shared=True)
    desk.lab.submit(2)
    desk.lab.settle(desk.lab.claim(), failing=one[:1])
    queues = desk.queues()
    (shared,) = [name for name in queues if "#" in name]
    assert {name: set(found) for name, found in queues.items()} == {
        QUEUE: {desk.entry(uid) for uid in one},
        OTHER_QUEUE: {desk.entry(uid) for uid in other},
        shared: {desk.entry(uid) for uid in together},
    }
    assert shared.startswith("shop.example#")
    assert set(desk.lab.members(desk.shared.receivers)) == set(queues)


def test_a_batch_is_kept_for_the_callbacks_that_tell_of_it(desk: Desk) -> None:
    desk.submit()
    claimed = desk.lab.claim()
    desk.lab.settle(claimed)
    assert PENDING_S - 10 < desk.client.ttl(desk.lab.keys.batch + claimed.batch) <= PENDING_S


def test_the_rest_of_the_time_counts_from_the_end_of_the_job(desk: Desk) -> None:
    (bad,), (good,) = desk.end(failing=True), desk.end()
    for uid in (bad, good):
        age(desk, uid, 4_000_000)
    for post in desk.lease():
        desk.report(post)
    assert DEAD_S - 4_010 < desk.ttls(bad)[0] <= DEAD_S - 4_000
    assert TTL_S - 10 < desk.ttls(good)[0] <= TTL_S  # a thin callback has one read the result


def age(desk: Desk, uid: str, ms: int) -> None:
    """Has a job ended ``ms`` earlier."""
    from umbel_batching.record import _SPANS

    finished = desk.lab.record(uid).finished_ms - ms
    start, _ = _SPANS["finished"]
    desk.client.setrange(desk.lab.keys.job + uid, start, f"{finished:013d}")


# A key leads to its job for as long as its callback is tried.


def test_an_idempotency_key_is_held_while_a_callback_waits(desk: Desk) -> None:
    accepted = desk.lab.keyed_call("a", callback=CALLED)
    desk.run(accepted)
    (uid,) = desk.lab.waiting()
    desk.lab.settle(desk.lab.claim())
    assert desk.client.ttl(desk.shared.once + uid) == desk.ttls(uid)[0] == -1
    assert desk.run(accepted).known[0].uid == uid
    assert desk.lab.state(uid) is State.SUCCEEDED


def test_it_is_held_as_long_as_any_once_it_is_delivered(desk: Desk) -> None:
    desk.run(desk.lab.keyed_call("a", callback=CALLED))
    (uid,) = desk.lab.waiting()
    desk.lab.settle(desk.lab.claim())
    desk.report(desk.lease()[0])
    assert TTL_S + TOMB_S - 10 < desk.client.ttl(desk.shared.once + uid) <= TTL_S + TOMB_S
    assert desk.redeliver(uid) == ""
    assert desk.client.ttl(desk.shared.once + uid) == desk.ttls(uid)[0] == -1


@ways
def test_what_is_owed_is_counted_until_it_is_over(
    make_desk: Callable[..., Desk], end: Way, state: State, policy: dict[str, Any]
) -> None:
    desk = make_desk(**policy)
    uid = end(desk.lab, CALLED)
    owed = (1, desk.client.strlen(desk.lab.keys.job + uid))
    (post,) = desk.lease()
    desk.report(post, "again", pause_ms=1_000)
    assert desk.owing() == owed
    desk.time_passes()
    desk.report(desk.lease()[0], "dead")
    assert desk.client.exists(desk.shared.owing) == 0
    desk.redeliver(uid)
    assert desk.owing() == owed
    desk.lab.forget(uid)
    assert desk.client.exists(desk.shared.owing) == 0


@pytest.mark.parametrize("verdict", ["delivered", "dead"])
def test_what_is_over_is_not_taken_off_twice(desk: Desk, verdict: Verdict) -> None:
    bad, _ = desk.end(failing=True)[0], desk.end()
    done = desk.end()[0]
    for post in desk.lease():
        if post.entries[0].uid in (bad, done):
            desk.report(post, verdict)
    owed = desk.owing()
    assert owed[0] == 1
    assert desk.lab.replay(bad).done
    desk.lab.forget(done)
    assert desk.owing() == owed


def test_an_undelivered_callback_holds_its_key_too(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(keep=Retention(dead_ttl_s=1_000_000))
    desk.run(desk.lab.keyed_call("a", callback=CALLED))
    (uid,) = desk.lab.waiting()
    desk.lab.settle(desk.lab.claim())
    desk.report(desk.lease()[0], "dead")
    assert desk.client.ttl(desk.shared.once + uid) >= desk.ttls(uid)[0] > 999_000


# A receiver that is behind.


def bounded(make_desk: Callable[..., Desk], most: int) -> Desk:
    desk = make_desk()
    desk.lab.calls._max_callbacks = most
    return desk


def test_a_receiver_that_is_behind_gets_no_more_jobs(make_desk: Callable[..., Desk]) -> None:
    desk = bounded(make_desk, 3)
    desk.end(2)
    desk.client.hdel(desk.lab.keys.lane, "memory")  # which each submit may look at
    before = desk.everything()
    with pytest.raises(ReceiverFull, match=r"2 callbacks wait for shop\.example") as refused:
        desk.submit(2)
    assert refused.value.retry_after == 1.0
    desk.client.hdel(desk.lab.keys.lane, "memory")
    assert desk.everything() == before
    desk.end(1)
    with pytest.raises(ReceiverFull):
        desk.submit()
    desk.report(desk.lease()[0])
    desk.end(1)


def test_its_queues_are_counted_together(make_desk: Callable[..., Desk]) -> None:
    desk = bounded(make_desk, 4)
    desk.end(2)
    desk.end(1, shared=True)
    desk.end(1, URL + "/else", shared=True)
    desk.lease()
    for shared in (False, True):
        with pytest.raises(ReceiverFull, match="4 callbacks wait"):
            desk.submit(shared=shared)


def test_their_bytes_are_bounded_too(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk()
    desk.lab.calls._max_callback_bytes = 10_000
    desk.lab.submit(2, callback=CALLED, payload=b"x" * 6_000)
    claimed = desk.lab.claim()
    size = sum(map(len, desk.lab.outcome(claimed).records))
    desk.lab.settle(claimed)
    assert desk.owing() == (2, size)
    desk.end(1)
    desk.lab.calls._max_callback_bytes = desk.owing()[1]
    with pytest.raises(ReceiverFull, match="3 callbacks wait"):
        desk.submit()
    desk.report(desk.lease()[0])
    desk.submit()


def test_each_receiver_is_counted_by_itself(make_desk: Callable[..., Desk]) -> None:
    desk = bounded(make_desk, 2)
    desk.end(2)
    desk.end(2, OTHER)
    for url in (URL, OTHER):
        with pytest.raises(ReceiverFull):
            desk.submit(1, url)
    desk.lab.submit(5)
    desk.submit(1, "https://third.example/")


def test_jobs_of_one_call_are_counted_together_and_refused_together(
    make_desk: Callable[..., Desk],
) -> None:
    desk = bounded(make_desk, 2)
    with pytest.raises(ReceiverFull, match="0 callbacks wait"):
        desk.submit(3)
    assert desk.lab.waiting() == []


def test_a_refusal_says_when_the_receiver_is_tried(make_desk: Callable[..., Desk]) -> None:
    desk = bounded(make_desk, 1)
    desk.end(1)
    desk.report(desk.lease()[0], "again", "busy", pause_ms=1_000, alone_ms=20_000)
    with pytest.raises(ReceiverFull) as refused:
        desk.submit()
    assert 19 < refused.value.retry_after <= 20


def test_a_submit_that_is_sent_again_is_not_refused(make_desk: Callable[..., Desk]) -> None:
    desk = bounded(make_desk, 1)
    call = desk.lab.keyed_call("a", callback=CALLED)
    desk.run(call)
    desk.lab.settle(desk.lab.claim())
    assert desk.queues() != {}
    assert desk.run(call).known.keys() == {0}


def test_a_full_lane_is_told_first(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(max_queue=512)
    desk.lab.calls._max_callbacks = 1
    with pytest.raises(LaneFull):
        desk.submit(513)


# Where a sender is there, no flusher is called.


def test_a_sender_that_is_there_needs_no_call(desk: Desk) -> None:
    desk.lease(there_ms=50_000)
    desk.client.delete(desk.shared.signal)
    at = desk.look()
    desk.end()
    assert desk.look() == at
    assert desk.client.zscore(desk.shared.senders, "sender") == at


def test_one_that_was_there_is_no_help(desk: Desk) -> None:
    desk.lease()
    desk.client.zadd(desk.shared.senders, {"sender": 1})
    desk.end()
    look = desk.look()
    assert look is not None
    assert look <= desk.lab.now()
    assert OUTBOX in desk.lab.members(desk.shared.wake)
