"""Leasing callbacks: what is handed out, to whom, how much of it, and what comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from umbel_batching.outbox import OUTBOX, Entry, Post, outbox_key
from umbel_batching.retention import Retention

if TYPE_CHECKING:
    from tests.unit.batching.conftest import Desk

URL, QUEUE = "https://shop.example/done", "shop.example"
OTHER, OTHER_QUEUE = "https://bank.example:8443/in", "bank.example:8443"
FIRST_LIMIT = 8


def entries(posts: list[Post]) -> list[str]:
    return [entry.uid for post in posts for entry in post.entries]


def shared_queue(desk: Desk) -> str:
    (queue,) = [name for name in desk.queues() if "#" in name]
    return queue


def test_an_entry_names_job_and_run() -> None:
    text = "abcdefgh" + "0" * 32 + "07"
    entry = Entry.parse(text)
    assert (entry.slot, entry.uid, entry.replays) == ("abcdefgh", "0" * 32, 7)
    assert (entry.text, entry.job_id) == (text, "abcdefgh-" + "0" * 32)
    assert entry.message_id == entry.job_id + "-7"
    assert Entry("abcdefgh", "0" * 32, 0).message_id == entry.job_id
    shared = Entry.parse(text + "0123456789abcdef")
    assert (shared.replays, shared.url, shared.text) == (7, "0123456789abcdef", text + shared.url)
    assert shared.message_id == entry.message_id


def test_a_post_is_leased_with_all_a_sender_needs(desk: Desk) -> None:
    (uid,) = desk.end(url=OTHER)
    before = desk.lab.now()
    leased = desk.run(desk.lease_call(lease_ms=60_000))
    (post,) = leased.posts
    assert (post.queue, post.receiver, post.name) == (OTHER_QUEUE, OTHER_QUEUE, desk.entry(uid))
    assert post.entries == (Entry(desk.lab.slot, uid, 0),)
    assert not post.is_parcel
    assert post.message_id == f"{desk.lab.slot}-{uid}"
    assert before + 60_000 <= int(post.lease_ends) <= desk.lab.now() + 60_000
    assert desk.due(post.name, OTHER_QUEUE) == int(post.lease_ends)
    assert desk.client.zscore(desk.shared.underway + OTHER_QUEUE, post.name) == float(
        post.lease_ends
    )
    assert 0 < leased.next_ms <= 60_000
    assert outbox_key(desk.lab.namespace, OTHER_QUEUE) == desk.shared.outbox + OTHER_QUEUE


def test_an_empty_outbox_has_nothing(desk: Desk) -> None:
    leased = desk.run(desk.lease_call())
    assert (leased.next_ms, leased.posts) == (-1, [])
    assert desk.lab.members(desk.shared.senders) == ["sender"]


def test_what_is_leased_is_leased_once(desk: Desk) -> None:
    desk.end(3)
    assert len(desk.lease("one")) == 3
    assert desk.lease("two") == []


def test_what_is_not_due_stays(desk: Desk) -> None:
    (uid,) = desk.end()
    later = desk.lab.now() + 50_000
    desk.client.zadd(desk.shared.outbox + QUEUE, {desk.entry(uid): later})
    leased = desk.run(desk.lease_call())
    assert leased.posts == []
    assert 0 < leased.next_ms <= 50_000
    assert desk.client.zscore(desk.shared.receivers, QUEUE) == later
    desk.time_passes()
    assert entries(desk.lease()) == [uid]


def test_a_lost_sender_gives_back_what_it_had(desk: Desk) -> None:
    uids = desk.end(3)
    lost = desk.lease("lost")
    desk.leases_end()
    again = desk.lease("other")
    assert entries(again) == entries(lost) == sorted(uids)
    assert [post.message_id for post in again] == [post.message_id for post in lost]


def test_a_lease_whose_reply_is_lost_gives_back_what_it_took(desk: Desk) -> None:
    """The client sends it again: that takes more, and nothing is lost or handed out twice."""
    uids = desk.end(5)
    call = desk.lease_call(posts=2)
    lost, told = desk.run(call).posts, desk.run(call).posts
    assert len(set(entries(lost + told))) == 4
    for post in told:
        assert desk.report(post) == []
    desk.leases_end()
    assert sorted(entries(desk.lease())) == sorted(set(uids) - set(entries(told)))


def test_parcels_of_a_lease_whose_reply_is_lost_are_kept(desk: Desk) -> None:
    uids = desk.end(6, shared=True)
    call = desk.lease_call(posts=1, size=3, parcel="p")
    lost, told = desk.run(call).posts, desk.run(call).posts
    assert [len(post.entries) for post in lost + told] == [3, 3]
    assert sorted(entries(lost + told)) == sorted(uids)
    assert lost[0].name != told[0].name
    desk.leases_end()
    again = desk.lease(size=3)
    assert sorted(entries(again)) == sorted(uids)
    assert {post.name for post in again} == {lost[0].name, told[0].name}


def test_a_sender_that_leases_counts_as_there(desk: Desk) -> None:
    desk.lease(there_ms=5_000)
    until = desk.client.zscore(desk.shared.senders, "sender")
    assert desk.lab.now() < until <= desk.lab.now() + 5_000
    assert desk.look() == until
    desk.client.zadd(desk.shared.wake, {OUTBOX: 7})
    desk.lease()
    assert desk.look() == 7  # a flusher that is due already is not put off


def test_no_more_is_taken_than_there_is_room_for(desk: Desk) -> None:
    desk.end(5)
    desk.end(5, OTHER)
    assert len(desk.lease(posts=4)) == 4
    assert len(desk.lease(posts=1)) == 1


def test_a_receiver_is_trusted_with_a_few_at_first(desk: Desk) -> None:
    desk.end(20)
    assert len(desk.lease(posts=64)) == FIRST_LIMIT
    assert desk.lease(posts=64) == []
    desk.leases_end()
    assert len(desk.lease(posts=64)) == FIRST_LIMIT


def test_the_setting_bounds_what_it_is_trusted_with(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(2)
    desk.end(5)
    assert len(desk.lease()) == 2


def test_all_queues_of_a_receiver_count_together(desk: Desk) -> None:
    desk.end(6)
    desk.end(6, shared=True)
    assert len(desk.lease(size=1)) == FIRST_LIMIT
    assert desk.client.zcard(desk.shared.underway + QUEUE) == FIRST_LIMIT


def test_a_queue_is_looked_at_soon_after_its_receiver_was_taken_up_by_another(desk: Desk) -> None:
    desk.end(20)
    posts = desk.lease()
    (uid,) = desk.end(shared=True)
    assert desk.lease() == []
    due = desk.client.zscore(desk.shared.receivers, shared_queue(desk))
    assert due <= desk.lab.now() + 1_000  # not only when a lease ends
    desk.report(posts[0])
    desk.client.zadd(desk.shared.receivers, {shared_queue(desk): 1})
    assert uid in entries(desk.lease())


def test_one_receiver_does_not_hold_up_another(desk: Desk) -> None:
    crowd = desk.end(1_000)
    for uid in crowd:
        desk.client.zadd(desk.shared.outbox + QUEUE, {desk.entry(uid): 1})
    desk.client.zadd(desk.shared.receivers, {QUEUE: 1})
    (single,) = desk.end(url=OTHER)
    first = desk.lease(posts=2)
    assert single in entries(first)
    assert len(first) == 2


def test_one_that_is_still_due_goes_behind_the_others(desk: Desk) -> None:
    desk.end(9)
    desk.end(1, OTHER)
    desk.client.zadd(desk.shared.receivers, {QUEUE: 1, OTHER_QUEUE: 2})
    assert [post.queue for post in desk.lease(posts=1)] == [QUEUE]
    assert [post.queue for post in desk.lease(posts=1)] == [OTHER_QUEUE]
    assert [post.queue for post in desk.lease(posts=1)] == [QUEUE]


def test_closed_receivers_do_not_hide_open_ones(desk: Desk) -> None:
    for at in range(70):
        desk.end(url=f"https://r{at:02d}.example/")
        desk.client.zadd(desk.shared.receivers, {f"r{at:02d}.example": at + 1})
        if at < 69:
            open_until = desk.lab.now() + 60_000
            desk.client.hset(desk.shared.receiver + f"r{at:02d}.example", "open_until", open_until)
    found = [post.queue for _ in range(2) for post in desk.lease()]
    assert found == ["r69.example"]


def test_a_queue_that_is_empty_is_struck_off(desk: Desk) -> None:
    (uid,) = desk.end()
    desk.lab.forget(uid)
    leased = desk.run(desk.lease_call())
    assert (leased.next_ms, leased.posts) == (-1, [])
    assert desk.client.exists(desk.shared.receivers) == 0


def test_nothing_stays_for_ever_of_a_sender_that_died(desk: Desk) -> None:
    (uid,) = desk.end()
    desk.lease()
    desk.lab.forget(uid)
    assert 0 < desk.client.pttl(desk.shared.underway + QUEUE) <= 10 * 60_000


# Those whose time is over are handed out whatever their receiver does, to be given up.


def test_what_is_too_old_is_not_held_up_by_its_receiver(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(keep=Retention(callback_ttl_s=100))
    old, new = desk.end(2)
    name = desk.entry(old)
    desk.client.zadd(desk.shared.outbox + QUEUE, {name: desk.lab.now() - 100_000})
    open_until = desk.lab.now() + 60_000
    desk.client.hset(desk.shared.receiver + QUEUE, "open_until", open_until)
    assert entries(desk.lease()) == [old]
    assert desk.lease() == []
    assert desk.client.zscore(desk.shared.receivers, QUEUE) == open_until
    desk.client.hset(desk.shared.receiver + QUEUE, "open_until", 1)
    desk.client.zadd(desk.shared.receivers, {QUEUE: 1})
    assert entries(desk.lease()) == [new]


def test_a_sender_that_is_short_of_places_takes_fewer_of_one(desk: Desk) -> None:
    desk.end(3)
    desk.end(3, shared=True)
    desk.end(3, OTHER)
    posts = desk.lease(to_one=1, size=1)
    assert sorted(post.receiver for post in posts) == [OTHER_QUEUE, QUEUE]
    assert desk.lease(to_one=1) == []
    desk.all_at(desk.shared.receivers, 1)
    assert len(desk.lease(to_one=2)) == 2


def test_one_that_takes_none_says_that_it_is_there(desk: Desk) -> None:
    desk.end()
    leased = desk.run(desk.lease_call(posts=0))
    assert (leased.posts, leased.next_ms) == ([], 0)
    assert desk.lab.members(desk.shared.senders) == ["sender"]


# Parcels: callbacks that may share a POST.


def test_callbacks_that_may_share_a_post_do(desk: Desk) -> None:
    uids = desk.end(5, shared=True)
    (post,) = desk.lease()
    assert post.is_parcel
    assert entries([post]) == uids
    assert post.message_id == post.name[1:]
    assert (post.receiver, post.queue) == (QUEUE, shared_queue(desk))
    assert desk.waiting(post.queue) == [post.name]


def test_a_single_one_is_a_parcel_too(desk: Desk) -> None:
    (uid,) = desk.end(shared=True)
    (post,) = desk.lease()
    assert post.is_parcel
    assert entries([post]) == [uid]


def test_a_parcel_holds_no_more_than_it_may(desk: Desk) -> None:
    uids = desk.end(8, shared=True)
    posts = desk.lease(size=3)
    assert [len(post.entries) for post in posts] == [3, 3, 2]
    assert entries(posts) == uids
    assert len({post.name for post in posts}) == 3


def test_only_the_same_url_shares_a_post(desk: Desk) -> None:
    desk.end(2, shared=True)
    desk.end(2, URL + "/else", shared=True)
    desk.end(1, URL)
    posts = desk.lease()
    assert sorted(len(post.entries) for post in posts) == [1, 2, 2]
    assert {post.receiver for post in posts} == {QUEUE}


def test_a_parcel_keeps_its_id_and_entries_over_retries(desk: Desk) -> None:
    desk.end(3, shared=True)
    (first,) = desk.lease()
    desk.report(first, "again", pause_ms=50_000)
    desk.end(3, shared=True)
    (more,) = desk.lease()
    assert more.name != first.name
    desk.time_passes()
    again = {post.name: post for post in desk.lease()}
    assert again[first.name].entries == first.entries
    assert again[more.name].entries == more.entries


def test_a_parcel_keeps_its_id_and_entries_after_a_lost_sender(desk: Desk) -> None:
    desk.end(3, shared=True)
    (first,) = desk.lease("lost")
    desk.end(2, shared=True)
    desk.leases_end()
    posts = desk.lease("other", size=4)
    assert sorted(len(post.entries) for post in posts) == [2, 3]
    (same,) = [post for post in posts if post.name == first.name]
    assert same.entries == first.entries
    assert same.message_id == first.message_id


def test_what_was_forgotten_stays_out_of_the_reports_of_its_parcel(desk: Desk) -> None:
    gone, stays = desk.end(2, shared=True)
    (post,) = desk.lease()
    desk.lab.forget(gone)
    desk.report(post, "again", pause_ms=9_000)
    assert desk.client.exists(desk.lab.keys.delivery + gone) == 0
    assert desk.counted() == {"attempts": 1, "again": 1}
    desk.time_passes()
    (again,) = desk.lease()
    assert again.entries == post.entries
    desk.report(again)
    assert desk.state(stays) == "delivered"
    assert desk.lab.state(gone) is None
    assert desk.counted() == {"attempts": 2, "again": 1, "delivered": 1}
    assert desk.queues() == {}


def test_what_was_replayed_stays_out_of_the_reports_of_its_parcel(desk: Desk) -> None:
    bad, other = desk.end(2, shared=True, failing=True)
    (post,) = desk.lease()
    assert desk.lab.replay(bad).done
    desk.report(post)
    assert desk.state(bad) == "waiting"
    assert desk.state(other) == "delivered"
    desk.lab.settle(desk.lab.claim())
    (anew,) = desk.lease()
    assert [entry.text for entry in anew.entries] == [desk.entry(bad, 1)]


def test_a_parcel_whose_jobs_are_all_forgotten_ends(desk: Desk) -> None:
    uids = desk.end(2, shared=True)
    (post,) = desk.lease()
    for uid in uids:
        desk.lab.forget(uid)
    assert desk.report(post, "gone") == []
    assert desk.queues() == {}
    assert desk.keys_of(desk.shared.parcel) == []
    assert desk.client.exists(desk.shared.receivers) == 0
