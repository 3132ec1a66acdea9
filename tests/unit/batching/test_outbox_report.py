"""Reports of senders: the fence, what becomes of a callback, and what is learned of a receiver."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from umbel_batching.outbox import Health, Verdict
from umbel_batching.receivers import BREAKS

if TYPE_CHECKING:
    from tests.unit.batching.conftest import Desk

URL, QUEUE = "https://shop.example/done", "shop.example"
OTHER, OTHER_QUEUE = "https://bank.example:8443/in", "bank.example:8443"
TTL_S, DEAD_S = 100, 10_000
FIRST_LIMIT, FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 8, 5_000, 300_000


def pause_of(desk: Desk, receiver: str = QUEUE) -> int:
    """Milliseconds for which a receiver is left alone."""
    return desk.about(receiver).get("open_until", 0) - desk.lab.now()


def near(found: int, expected: int) -> bool:
    return expected - 2_000 <= found <= expected


def fail(desk: Desk, times: int = BREAKS, health: Health = "sick") -> None:
    """Attempts that fail one by one, each as soon as it may be made."""
    for _ in range(times):
        desk.time_passes()
        posts = desk.lease(posts=1)
        assert len(posts) == 1
        desk.report(posts[0], "again", health, pause_ms=1_000)


# What becomes of a callback.


def test_delivered(desk: Desk) -> None:
    (uid,) = desk.end()
    (post,) = desk.lease()
    assert desk.report(post, status=204) == []
    assert (desk.state(uid), desk.queues()) == ("delivered", {})
    assert desk.client.exists(desk.shared.receivers, desk.shared.underway + QUEUE) == 0
    assert desk.counted() == {"attempts": 1, "delivered": 1}
    assert desk.about()["delivered"] == 1


def test_again(desk: Desk) -> None:
    (uid,) = desk.end()
    (post,) = desk.lease()
    before = desk.lab.now()
    assert desk.report(post, "again", pause_ms=50_000) == []
    assert desk.state(uid) == "pending"
    assert before + 50_000 <= desk.due(post.name) <= desk.lab.now() + 50_000
    assert desk.client.zscore(desk.shared.receivers, QUEUE) == desk.due(post.name)
    assert desk.client.zcard(desk.shared.underway + QUEUE) == 0
    assert desk.counted() == {"attempts": 1, "again": 1}


def test_dead(desk: Desk) -> None:
    (uid,) = desk.end()
    (post,) = desk.lease()
    assert desk.report(post, "dead", status=410) == []
    assert (desk.state(uid), desk.queues()) == ("dead", {})
    assert desk.lab.members(desk.shared.undelivered) == [f"{desk.entry(uid)} {QUEUE}"]
    assert 0 < desk.client.ttl(desk.shared.undelivered) <= DEAD_S
    assert desk.counted() == {"attempts": 1, "dead": 1}


def test_gone(desk: Desk) -> None:
    (uid,) = desk.end()
    (post,) = desk.lease()
    desk.client.delete(desk.lab.keys.job + uid)  # as when its time has passed
    assert desk.report(post, "gone") == []
    assert desk.queues() == {}
    assert desk.counted() == {"attempts": 1}
    assert desk.about()["gone"] == 1


def test_a_parcel_is_reported_as_one_and_counted_by_job(desk: Desk) -> None:
    uids = desk.end(3, shared=True)
    (post,) = desk.lease()
    desk.report(post, "dead")
    assert [desk.state(uid) for uid in uids] == ["dead"] * 3
    assert desk.counted() == {"attempts": 1, "dead": 3}
    assert desk.about()["dead"] == 1
    assert desk.client.zcard(desk.shared.undelivered) == 3
    assert desk.keys_of(desk.shared.parcel) == []


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("verdict", ["delivered", "again", "dead", "gone"])
def test_sent_twice_is_the_same_as_once(desk: Desk, verdict: Verdict, shared: bool) -> None:
    desk.end(2, shared=shared)
    post = desk.lease()[0]
    assert desk.report(post, verdict, pause_ms=50_000) == []
    before = desk.everything()
    assert desk.report(post, verdict, pause_ms=50_000) is None
    assert desk.everything() == before


def test_one_that_is_damaged_holds_up_nothing(desk: Desk) -> None:
    uids = desk.end(2, shared=True)
    (post,) = desk.lease()
    desk.client.set(desk.lab.keys.job + uids[0], b"x" * 300)
    assert desk.report(post, "again", pause_ms=1_000) == []
    assert desk.waiting(post.queue) == [post.name]
    desk.time_passes()
    assert desk.report(desk.lease()[0]) == []
    assert (desk.queues(), desk.state(uids[1])) == ({}, "delivered")
    (alone,) = desk.end()
    (post,) = desk.lease()
    desk.client.set(desk.lab.keys.job + alone, b"x" * 300)
    assert desk.report(post, "again", pause_ms=1_000) == []
    assert desk.queues() == {}


# The fence.


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("verdict", ["again", "dead", "gone"])
def test_a_zombie_changes_nothing(desk: Desk, verdict: Verdict, shared: bool) -> None:
    desk.end(2, shared=shared)
    zombie = desk.lease("zombie", lease_ms=50_000)[0]
    desk.leases_end()
    held = desk.lease("other")[0]
    assert held.name == zombie.name
    before = desk.everything()
    assert desk.report(zombie, verdict, pause_ms=50_000) is None
    assert desk.everything() == before
    assert desk.report(held, "again", pause_ms=50_000) == []


@pytest.mark.parametrize("verdict", ["delivered", "again", "dead", "gone"])
def test_a_success_counts_once_whoever_holds_it(desk: Desk, verdict: Verdict) -> None:
    (uid,) = desk.end()
    (zombie,) = desk.lease("zombie", lease_ms=50_000)
    desk.leases_end()
    (held,) = desk.lease("other")
    assert desk.report(zombie, status=200) == []
    assert desk.state(uid) == "delivered"
    assert desk.report(held, verdict, pause_ms=50_000) is None
    delivery = desk.delivery(uid)
    assert delivery is not None
    assert (delivery.state.value, delivery.attempts) == ("delivered", 1)
    assert desk.counted() == {"attempts": 1, "delivered": 1}
    assert desk.queues() == {}
    assert desk.client.exists(desk.shared.underway + QUEUE, desk.shared.undelivered) == 0


def test_a_late_report_counts_while_nobody_else_holds_it(desk: Desk) -> None:
    (uid,) = desk.end()
    (post,) = desk.lease()
    desk.client.zadd(desk.shared.outbox + QUEUE, {post.name: 1})
    assert desk.report(post, "again", pause_ms=50_000) == []
    assert desk.delivery(uid).attempts == 1  # type: ignore[union-attr]  # it has one


def test_an_attempt_that_was_given_up_is_not_revived(desk: Desk) -> None:
    (uid,) = desk.end()
    (zombie,) = desk.lease("zombie", lease_ms=50_000)
    desk.leases_end()
    (held,) = desk.lease("other")
    desk.report(held, "dead")
    assert desk.report(zombie) is None
    assert desk.state(uid) == "dead"


@pytest.mark.parametrize("verdict", ["delivered", "again", "dead"])
def test_a_forgotten_job_has_no_report(desk: Desk, verdict: Verdict) -> None:
    (uid,) = desk.end()
    (post,) = desk.lease()
    desk.lab.forget(uid)
    assert desk.report(post, verdict) is None
    left = desk.lab.keys_with(uid)
    assert all(key.startswith(desk.lab.keys.batch) for key in left)
    assert desk.counted() == {}


# What is learned of a receiver.


def test_its_limit_grows_while_it_does_well(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(11)
    for expected in (9, 10, 11, 11):
        desk.end()
        (post,) = desk.lease()
        desk.report(post)
        assert desk.about()["limit"] == expected
    for _ in range(4):
        desk.end(4)
    assert len(desk.lease()) == 11


def test_its_limit_halves_when_it_fails_and_one_is_left(desk: Desk) -> None:
    desk.end()
    for expected in (4, 2, 1, 1):
        fail(desk, 1)
        assert desk.about()["limit"] == expected
    desk.time_passes()
    assert len(desk.lease()) == 1


def test_a_limit_above_the_setting_comes_down(make_desk: Callable[..., Desk]) -> None:
    desk, lower = make_desk(32), make_desk(3)
    desk.end()
    desk.report(desk.lease()[0])
    assert desk.about()["limit"] == 9
    desk.end(6)
    posts = lower.lease()
    assert len(posts) == 3
    lower.report(posts[0])
    assert desk.about()["limit"] == 9  # as it was: it does well, and is trusted with all it may
    lower.report(posts[1], "again", pause_ms=9_000)
    assert desk.about()["limit"] == 1


def test_its_breaker_opens_after_failures_in_a_row(desk: Desk) -> None:
    desk.end()
    fail(desk, BREAKS - 1)
    assert pause_of(desk) <= 0
    fail(desk, 1)
    assert near(pause_of(desk), FIRST_PAUSE_MS)
    assert desk.client.zscore(desk.shared.receivers, QUEUE) == desk.about()["open_until"]
    desk.end()
    assert desk.lease() == []
    for _ in range(2):
        desk.end(url=OTHER)
        (post,) = desk.lease()
        assert (post.queue, desk.report(post)) == (OTHER_QUEUE, [])
    assert near(pause_of(desk), FIRST_PAUSE_MS)


def test_a_success_starts_the_count_anew(desk: Desk) -> None:
    desk.end(2)
    fail(desk, BREAKS - 1)
    desk.time_passes()
    desk.report(desk.lease(posts=1)[0])
    assert desk.about()["failures"] == 0
    fail(desk, BREAKS - 1)
    assert pause_of(desk) <= 0


def test_its_pause_doubles_up_to_five_minutes(desk: Desk) -> None:
    desk.end()
    fail(desk)
    for doublings in range(1, 9):
        fail(desk, 1)
        expected = min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2**doublings)
        assert near(pause_of(desk), expected)


def test_failures_that_were_under_way_count_once(desk: Desk) -> None:
    desk.end(8)
    posts = desk.lease()
    assert len(posts) == 8
    for post in posts:
        desk.report(post, "again", pause_ms=1_000)
    assert desk.about()["failures"] == BREAKS
    assert near(pause_of(desk), FIRST_PAUSE_MS)


def test_one_post_tries_whether_it_is_well_again(desk: Desk) -> None:
    desk.end(8)
    desk.end(3, shared=True)
    fail(desk)
    desk.time_passes()
    (probe,) = desk.lease("one")
    assert desk.lease("two") == []
    desk.report(probe)
    assert desk.about()["failures"] == 0
    desk.time_passes()
    assert len(desk.lease()) == desk.about()["limit"] == 2


def test_one_alone_however_much_it_was_trusted_with(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(256)
    desk.client.hset(desk.shared.receiver + QUEUE, "limit", 200)
    desk.end(20)
    fail(desk)
    assert desk.about()["limit"] == 6
    desk.time_passes()
    assert [len(desk.lease("one")), len(desk.lease("two"))] == [1, 0]


def test_a_probe_that_is_lost_is_made_again(desk: Desk) -> None:
    desk.end(8)
    fail(desk)
    desk.time_passes()
    assert len(desk.lease("lost")) == 1
    desk.leases_end()
    assert len(desk.lease("other")) == 1


def test_a_busy_receiver_is_left_alone_as_long_as_it_asks(desk: Desk) -> None:
    (uid,) = desk.end()
    (post,) = desk.lease()
    desk.report(post, "again", "busy", pause_ms=1_000, alone_ms=70_000, status=429)
    about = desk.about()
    assert near(pause_of(desk), 70_000)
    assert (about["limit"], about.get("failures", 0)) == (FIRST_LIMIT // 2, 0)
    assert desk.due(post.name) < about["open_until"]
    assert desk.client.zscore(desk.shared.receivers, QUEUE) == about["open_until"]
    desk.end()
    assert desk.lease() == []
    desk.time_passes()
    assert len(desk.lease()) == 2
    assert desk.state(uid) == "pending"


def test_it_is_not_asked_sooner_by_a_later_answer(desk: Desk) -> None:
    desk.end(2)
    one, two = desk.lease()
    desk.report(one, "again", "busy", pause_ms=1_000, alone_ms=70_000)
    desk.report(two, "again", "busy", pause_ms=1_000, alone_ms=10)
    assert near(pause_of(desk), 70_000)


def test_one_that_fails_at_a_message_is_there(desk: Desk) -> None:
    desk.end()
    for expected in (4, 4):
        fail(desk, 1, "failing")
        assert desk.about()["limit"] == expected
    fail(desk, BREAKS - 1)
    assert desk.about()["limit"] == 1
    fail(desk, 1, "failing")
    assert (desk.about()["failures"], desk.about()["limit"]) == (0, 4)
    fail(desk, BREAKS - 1)
    assert pause_of(desk) <= 0


def test_one_that_refuses_a_message_is_there(desk: Desk) -> None:
    desk.end()
    fail(desk, 2)
    fail(desk, 1, "there")
    assert (desk.about()["failures"], desk.about()["limit"]) == (0, 2)


def test_a_receiver_that_asks_for_time_is_there(desk: Desk) -> None:
    desk.end()
    fail(desk, BREAKS)
    fail(desk, 1, "busy")
    assert desk.about()["failures"] == 0
    fail(desk, BREAKS - 1)
    assert pause_of(desk) <= 0


def test_an_unknown_health_says_nothing_of_it(desk: Desk) -> None:
    desk.end()
    fail(desk, BREAKS + 1, "unknown")
    about = desk.about()
    assert about == {"again": BREAKS + 1}
    assert pause_of(desk) <= 0


def test_what_is_known_of_a_receiver_is_forgotten_some_day(desk: Desk) -> None:
    desk.end()
    desk.report(desk.lease()[0])
    assert 0 < desk.client.ttl(desk.shared.receiver + QUEUE) <= 7 * 86_400


# A report frees a place, and a sender is called where none is there.


def test_a_report_makes_its_queue_due(desk: Desk) -> None:
    desk.end(FIRST_LIMIT + 1)
    posts = desk.lease()
    assert desk.lease() == []
    assert desk.client.zscore(desk.shared.receivers, QUEUE) > desk.lab.now()
    desk.report(posts[0])
    assert desk.client.zscore(desk.shared.receivers, QUEUE) <= desk.lab.now()
    assert len(desk.lease()) == 1


def test_a_report_calls_a_sender_where_none_is_there(desk: Desk) -> None:
    desk.end(FIRST_LIMIT + 1)
    posts = desk.lease()
    desk.run(desk.calls.rest("sender"))
    desk.client.delete(desk.shared.wake, desk.shared.signal)
    desk.report(posts[0])
    look = desk.look()
    assert look is not None
    assert look <= desk.lab.now()
    assert desk.client.exists(desk.shared.signal)
