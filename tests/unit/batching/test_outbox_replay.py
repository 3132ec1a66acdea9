"""Second lives: callbacks delivered once more, jobs replayed, and what is kept for how long."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from umbel_batching.lanes import keyed_uid, new_uid
from umbel_batching.outbox import Entry, Verdict
from umbel_batching.record import State, encode_callback
from umbel_batching.retention import Retention

if TYPE_CHECKING:
    from tests.unit.batching.conftest import Desk

URL, QUEUE = "https://shop.example/done", "shop.example"
TTL_S, TOMB_S, DEAD_S = 100, 1_000, 10_000
WEEK_S = 604_800
#: Dead letters that stay longer than their callbacks are tried.
LONG = Retention(result_ttl_s=TTL_S, tombstone_ttl_s=TOMB_S, dead_ttl_s=WEEK_S)


def ended(desk: Desk, verdict: Verdict = "delivered", *, failing: bool = False) -> str:
    (uid,) = desk.end(failing=failing)
    desk.report(desk.lease()[0], verdict, pause_ms=50_000)
    return uid


def within(found: int, expected: int) -> bool:
    return expected - 10 < found <= expected


# The callback is delivered once more.


@pytest.mark.parametrize("verdict", ["delivered", "dead"])
def test_a_callback_is_delivered_once_more(desk: Desk, verdict: Verdict) -> None:
    uid = ended(desk, verdict)
    before = desk.lab.now()
    for _ in range(2):
        assert desk.redeliver(uid) == ""
    assert desk.queues() == {QUEUE: [desk.entry(uid)]}
    delivery = desk.delivery(uid)
    assert delivery is not None
    assert (delivery.state.value, delivery.attempts) == ("pending", 0)
    assert before <= delivery.since == delivery.due <= desk.lab.now()
    assert [each.note for each in delivery.log] == ["", "replayed"]
    assert desk.counted()["replayed"] == 1
    assert desk.client.exists(desk.shared.undelivered) == 0
    assert desk.ttls(uid) == (-1, -1)
    (post,) = desk.lease()
    assert post.message_id == f"{desk.lab.slot}-{uid}"
    desk.report(post)
    assert desk.state(uid) == "delivered"


def test_a_sender_is_called_for_it(desk: Desk) -> None:
    uid = ended(desk)
    desk.run(desk.calls.rest("sender"))
    desk.client.delete(desk.shared.wake, desk.shared.signal)
    desk.redeliver(uid)
    look = desk.look()
    assert look is not None
    assert look <= desk.lab.now()
    assert desk.client.exists(desk.shared.signal)


def test_one_that_waits_is_left_as_it_is(desk: Desk) -> None:
    (untried,) = desk.end()
    tried = desk.end()[0]
    for post in desk.lease():
        if post.entries[0].uid == tried:
            desk.report(post, "again", pause_ms=50_000)
    before = desk.everything()
    assert [desk.redeliver(untried), desk.redeliver(tried)] == ["", ""]
    assert desk.everything() == before


def test_there_must_be_one(desk: Desk) -> None:
    (waits,) = desk.submit()
    assert desk.redeliver(waits) == "not ended"
    desk.lab.claim()
    assert desk.redeliver(waits) == "not ended"
    (silent,) = desk.lab.submit()
    desk.lab.settle(desk.lab.claim())
    assert desk.redeliver(silent) == "none"
    assert desk.redeliver(new_uid()) == "unknown"
    assert desk.queues() == {}


def test_a_member_of_a_parcel_goes_out_in_a_new_one(desk: Desk) -> None:
    one, two = desk.end(2, shared=True)
    (post,) = desk.lease()
    desk.report(post)
    assert desk.redeliver(one) == ""
    (again,) = desk.lease()
    assert again.name != post.name
    assert [entry.uid for entry in again.entries] == [one]
    desk.report(again, "dead")
    assert (desk.state(one), desk.state(two)) == ("dead", "delivered")


# The job is replayed.


@pytest.mark.parametrize("verdict", [None, "delivered", "again", "dead"])
def test_a_replayed_job_takes_its_callback_back(desk: Desk, verdict: Verdict | None) -> None:
    if verdict is None:
        (uid,) = desk.end(failing=True)
    else:
        uid = ended(desk, verdict, failing=True)
    for _ in range(2):
        assert desk.lab.replay(uid).done
    assert desk.queues() == {}
    assert desk.client.exists(desk.shared.undelivered, desk.lab.keys.delivery + uid) == 0
    assert desk.state(uid) == "waiting"
    record = desk.lab.record(uid)
    assert (record.callback_url, record.finished_ms, record.replays) == (URL, 0, 1)
    assert desk.ttls(uid) == (-1, -2)


def test_its_next_end_has_a_callback_of_its_own(desk: Desk) -> None:
    uid = ended(desk, failing=True)
    for run in range(1, 4):
        desk.lab.replay(uid)
        desk.lab.settle(desk.lab.claim(), failing=[uid])
        assert desk.queues() == {QUEUE: [desk.entry(uid, run)]}
        (post,) = desk.lease()
        assert post.entries == (Entry(desk.lab.slot, uid, run),)
        assert post.message_id == f"{desk.lab.slot}-{uid}-{run}"
        desk.report(post)
        delivery = desk.delivery(uid)
        assert delivery is not None
        assert (delivery.state.value, delivery.attempts) == ("delivered", 1)


@pytest.mark.parametrize("verdict", ["delivered", "again", "dead", "gone"])
def test_a_report_of_the_run_before_changes_nothing(desk: Desk, verdict: Verdict) -> None:
    (uid,) = desk.end(failing=True)
    (post,) = desk.lease()
    desk.lab.replay(uid)
    assert desk.report(post, verdict, pause_ms=50_000) is None
    assert desk.state(uid) == "waiting"
    desk.lab.settle(desk.lab.claim())
    assert desk.report(post, verdict, pause_ms=50_000) is None
    assert (desk.state(uid), desk.queues()) == ("pending", {QUEUE: [desk.entry(uid, 1)]})


@pytest.mark.parametrize("how", ["expires", "is cancelled"])
def test_a_replayed_job_may_end_in_any_way(desk: Desk, how: str) -> None:
    uid = ended(desk, failing=True)
    desk.lab.replay(uid)
    if how == "expires":
        desk.lab.past_deadline(uid)
        desk.client.zadd(desk.lab.keys.deadlines, {uid: 1})
        desk.lab.expire()
    else:
        desk.lab.cancel(uid)
    assert desk.queues() == {QUEUE: [desk.entry(uid, 1)]}


# The job is forgotten.


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("verdict", [None, "delivered", "again", "dead"])
def test_nothing_of_its_callback_is_left(desk: Desk, verdict: Verdict | None, shared: bool) -> None:
    (uid,) = desk.end(failing=True, shared=shared)
    if verdict:
        desk.report(desk.lease()[0], verdict, pause_ms=50_000)
    assert [desk.lab.forget(uid), desk.lab.forget(uid)] == [State.FAILED, None]
    left = desk.lab.keys_with(uid)
    kept = (desk.lab.keys.batch, desk.shared.parcel)  # a parcel goes with its next attempt
    assert all(key.startswith(kept) for key in left)
    assert desk.redeliver(uid) == "unknown"


@pytest.mark.parametrize("running", [False, True])
def test_a_live_job_that_is_forgotten_calls_nobody(desk: Desk, running: bool) -> None:
    (uid,) = desk.submit()
    claimed = desk.lab.claim() if running else None
    assert desk.lab.forget(uid) is (State.RUNNING if running else State.QUEUED)
    if claimed:
        desk.lab.settle(claimed)
    assert desk.queues() == {}
    assert desk.lease() == []


def test_a_key_that_is_used_anew_has_a_callback_of_its_own(desk: Desk) -> None:
    call = desk.lab.keyed_call("a", callback=encode_callback(URL))
    desk.run(call)
    (uid,) = desk.lab.waiting()
    desk.lab.settle(desk.lab.claim())
    (post,) = desk.lease()
    desk.lab.forget(uid)
    assert desk.run(call).known == {}
    assert desk.report(post, "again", pause_ms=50_000) is None
    assert desk.state(uid) == "waiting"
    assert desk.queues() == {}


# How long it all stays.


def test_an_undelivered_callback_stays_like_a_dead_letter(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(keep=LONG)
    for failing in (False, True):
        uid = ended(desk, "dead", failing=failing)
        assert all(within(ttl, WEEK_S) for ttl in desk.ttls(uid))
    assert within(desk.client.ttl(desk.shared.undelivered), WEEK_S)


def test_it_stays_no_shorter_than_any_result(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(keep=Retention(result_ttl_s=5_000, dead_ttl_s=10))
    uid = ended(desk, "dead")
    assert all(within(ttl, 5_000) for ttl in desk.ttls(uid))


def test_the_oldest_undelivered_ones_give_way(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(keep=Retention(result_ttl_s=TTL_S, dead_ttl_s=WEEK_S, max_dead_callbacks=2))
    uids, gave_way = [], []
    for at in range(4):
        (uid,) = desk.end(failing=at == 1)
        gave_way.append(desk.report(desk.lease()[0], "dead"))
        member = f"{desk.entry(uid)} {QUEUE}"
        desk.client.zadd(desk.shared.undelivered, {member: desk.lab.now() - 1_000 + at})
        uids.append(uid)
    first, failed = (Entry(desk.lab.slot, uid, 0) for uid in uids[:2])
    assert gave_way == [[], [], [first], [failed]]
    members = [f"{desk.entry(uid)} {QUEUE}" for uid in uids[2:]]
    assert desk.lab.members(desk.shared.undelivered) == members
    assert [desk.run(desk.calls.loosen([first, failed])) for _ in range(2)] == [1, 0]
    assert within(desk.ttls(first.uid)[0], TTL_S)
    assert within(desk.ttls(failed.uid)[0], WEEK_S)  # it is a dead letter still
    assert [desk.state(uid) for uid in uids] == ["dead"] * 4


def test_those_too_old_go_by_themselves(desk: Desk) -> None:
    old = ended(desk, "dead")
    long_ago = desk.lab.now() - DEAD_S * 1_000 - 1
    desk.client.zadd(desk.shared.undelivered, {f"{desk.entry(old)} {QUEUE}": long_ago})
    new = ended(desk, "dead")
    assert desk.lab.members(desk.shared.undelivered) == [f"{desk.entry(new)} {QUEUE}"]


def test_none_at_all_may_be_kept(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(keep=Retention(result_ttl_s=TTL_S, max_dead_callbacks=0))
    (uid,) = desk.end()
    assert desk.report(desk.lease()[0], "dead") == [Entry(desk.lab.slot, uid, 0)]
    assert desk.client.exists(desk.shared.undelivered) == 0
    assert all(within(ttl, TTL_S) for ttl in desk.ttls(uid))
    assert desk.redeliver(uid) == ""


def test_one_that_was_put_back_meanwhile_is_not_loosened(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(keep=Retention(result_ttl_s=TTL_S, dead_ttl_s=WEEK_S, max_dead_callbacks=1))
    uid = ended(desk, "dead")
    ended(desk, "dead")
    desk.redeliver(uid)
    assert desk.run(desk.calls.loosen([Entry(desk.lab.slot, uid, 0)])) == 0
    assert desk.ttls(uid) == (-1, -1)


def test_loosening_knows_live_and_unknown_jobs(desk: Desk) -> None:
    uid = ended(desk, "dead", failing=True)
    desk.lab.replay(uid)
    entries = [Entry(desk.lab.slot, name, 0) for name in (uid, new_uid())]
    assert desk.run(desk.calls.loosen(entries)) == 0
    assert desk.ttls(uid)[0] == -1
    assert desk.run(desk.calls.loosen([])) == 0


@pytest.mark.parametrize(("verdict", "expected"), [(None, -1), ("again", -1), ("dead", WEEK_S)])
def test_a_dead_letter_that_is_dropped_stays_for_its_callback(
    make_desk: Callable[..., Desk], verdict: Verdict | None, expected: int
) -> None:
    desk = make_desk(keep=LONG)
    if verdict is None:
        (uid,) = desk.end(failing=True)
    else:
        uid = ended(desk, verdict, failing=True)
    assert [desk.lab.drop(uid), desk.lab.drop(uid)] == [True, False]
    ttl, delivery_ttl = desk.ttls(uid)
    assert ttl == expected or within(ttl, expected)
    assert delivery_ttl in (-2, ttl)


def test_one_whose_callback_was_delivered_goes_when_other_results_go(
    make_desk: Callable[..., Desk],
) -> None:
    desk = make_desk(keep=LONG)
    uid = ended(desk, failing=True)
    assert within(desk.ttls(uid)[0], WEEK_S)
    desk.lab.drop(uid)
    assert all(within(ttl, TTL_S) for ttl in desk.ttls(uid))


def test_one_that_is_dropped_never_stays_longer_for_it(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(keep=LONG)
    uid = ended(desk, "dead", failing=True)
    desk.client.expire(desk.lab.keys.job + uid, 5_000)
    desk.lab.drop(uid)
    assert within(desk.ttls(uid)[0], 5_000)


def test_dead_letters_that_give_way_stay_for_their_callbacks(
    make_desk: Callable[..., Desk],
) -> None:
    desk = make_desk(keep=Retention(result_ttl_s=TTL_S, dead_ttl_s=WEEK_S, max_dead=1))
    old = desk.end(failing=True)[0]
    desk.client.zadd(desk.lab.keys.dead, {old: desk.lab.now() - 1_000})
    (new,) = desk.end(failing=True)
    assert desk.lab.members(desk.lab.keys.dead) == [new]
    assert desk.ttls(old) == (-1, -2)
    for post in desk.lease():
        desk.report(post)
    assert within(desk.ttls(new)[0], WEEK_S)


def test_a_key_that_is_used_anew_has_another_webhook_id() -> None:
    plain, keyed = Entry("a" * 8, new_uid(), 1), Entry("a" * 8, keyed_uid("m", "order-7"), 0)
    assert plain.webhook_id(1) == plain.webhook_id(2) == f"{plain.job_id}-1"
    assert keyed.webhook_id(17) == f"{keyed.job_id}-17"
    assert keyed.webhook_id(18) != keyed.webhook_id(17)
