"""How callbacks end that cannot be delivered now, or at all, and how long their records stay."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from umbel_batching import record
from umbel_batching.keys import shared_keys
from umbel_batching.lanes import new_uid
from umbel_batching.outbox import Entry
from umbel_batching.receivers import receiver_statuses, undelivered
from umbel_callbacks import sender as module
from umbel_callbacks.sender import Sender, Tally
from umbel_callbacks.signing import new_secret

if TYPE_CHECKING:  # fixtures
    from tests.integration.callbacks.conftest import Desk, OpenDesk, OpenSender, StartHook

QUICK = (0.05, 0.05)
TOO_LATE = "not sent: callback_ttl_s is over"


async def turn(sender: Sender) -> Tally:
    return await sender.turn(new_uid(), 5.0, threading.Event())


def pass_time(desk: Desk, seconds: int, *entries: Entry) -> None:
    """Lets so much time pass for what Redis knows of receivers and of these callbacks."""
    keys, ms = shared_keys(desk.settings.namespace), seconds * 1000
    queues = [key.decode() for key in desk.client.scan_iter(match=f"{keys.outbox}*")]
    for key in (*queues, keys.receivers):
        for member in cast("list[bytes]", desk.client.zrange(key, 0, -1)):
            desk.client.zincrby(key, -ms, member)
    for key in desk.client.scan_iter(match=f"{keys.receiver}*"):
        if until_ms := desk.client.hget(key, "open_until"):
            desk.client.hset(key, "open_until", int(until_ms) - ms)
    for entry in entries:
        first, behind = record._SPANS["finished"]
        _earlier(desk, desk.keys.job + entry.uid, first, behind, ms)
        _earlier(desk, desk.keys.delivery + entry.uid, 4, 17, ms)


def _earlier(desk: Desk, key: str, first: int, behind: int, ms: int) -> None:
    raw = desk.client.getrange(key, first, behind - 1)
    if raw:
        desk.client.setrange(key, first, f"{int(raw) - ms:013d}")


def ttls(desk: Desk, entries: Sequence[Entry]) -> set[int]:
    """Seconds that their records stay; -1: without a limit, -2: they are gone."""
    return {desk.client.ttl(desk.keys.job + entry.uid) for entry in entries}


async def test_a_dead_receiver_loses_none_of_its_callbacks(
    open_desk: OpenDesk, open_sender: OpenSender, caplog: pytest.LogCaptureFixture
) -> None:
    desk = open_desk(callback_ttl_s=10, result_ttl_s=60)
    sender = await open_sender(desk.settings)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        entries = desk.ended(*[f"http://127.0.0.1:{held.getsockname()[1]}/hook"] * 300)
        first = await turn(sender)
        assert 5 <= first.again < 64
        assert ttls(desk, entries) == {-1}
        (about,) = receiver_statuses(desk.client, desk.settings.namespace)
        assert (about.pending, about.closed_until is not None) == (300, True)
        pass_time(desk, 20, *entries)
        assert await turn(sender) == Tally(posts=300, dead=300)
    assert desk.states(*entries) == {"dead"}
    letters = undelivered(desk.client, desk.settings.namespace)
    assert {letter.id for letter in letters} == {entry.job_id for entry in entries}
    assert all(letter.log[-1].note.startswith(TOO_LATE) for letter in letters)
    tried = [
        letter for letter in letters if letter.log[0].note == "not reached: connection refused"
    ]
    assert len(tried) == first.again
    assert caplog.text.count(f"given up ({TOO_LATE}") == 300
    assert desk.waiting() == set()
    assert min(ttls(desk, entries)) > 60, "dead letters go as early as results"


@pytest.mark.parametrize("hours", [-7, 7])
async def test_the_clock_of_a_sender_gives_nothing_up(
    start_hook: StartHook,
    open_desk: OpenDesk,
    open_sender: OpenSender,
    monkeypatch: pytest.MonkeyPatch,
    hours: int,
) -> None:
    clock = SimpleNamespace(monotonic=time.monotonic, time=lambda: time.time() + hours * 3600)
    monkeypatch.setattr(module, "time", clock)
    hook = await start_hook("500 Oh")
    desk = open_desk(callback_schedule_s=QUICK, callback_ttl_s=600)
    (late,) = desk.ended(hook.url("/late"))
    pass_time(desk, 601, late)
    (entry,) = desk.ended(hook.url("/soon"))
    tally = await desk.finish(await open_sender(desk.settings), entry, late)
    assert tally == Tally(posts=3, delivered=1, again=1, dead=1)
    assert hook.ids == [entry.job_id] * 2
    assert desk.callback(late).log[0].note.startswith(TOO_LATE)
    moments = [int(request.headers["webhook-timestamp"]) for request in hook.requests]
    assert all(abs(moment - time.time() - hours * 3600) < 60 for moment in moments)


async def test_what_is_too_old_takes_nothing_newer_with_it(
    start_hook: StartHook, open_desk: OpenDesk, open_sender: OpenSender
) -> None:
    hook, desk = await start_hook(), open_desk(callback_ttl_s=600)
    old = desk.ended(hook.url(), shared=True)
    pass_time(desk, 601, *old)
    entries = old + desk.ended(hook.url(), shared=True)
    tally = await desk.finish(await open_sender(desk.settings), *entries)
    assert tally == Tally(posts=2, delivered=1, dead=1)
    assert (desk.states(*old), len(hook.requests)) == ({"dead"}, 1)


async def test_a_thin_callback_that_comes_late_leaves_time_to_read_the_result(
    start_hook: StartHook, open_desk: OpenDesk, open_sender: OpenSender
) -> None:
    hook, desk = await start_hook(), open_desk(callback_payload="thin", result_ttl_s=300)
    entries = desk.ended(hook.url(), output="the result")
    pass_time(desk, 100_000, *entries)
    assert ttls(desk, entries) == {-1}
    await desk.finish(await open_sender(desk.settings), *entries)
    assert (desk.states(*entries), len(hook.requests)) == ({"delivered"}, 1)
    raw = desk.client.get(desk.keys.job + entries[0].uid)
    assert isinstance(raw, bytes)
    assert b"the result" in raw
    assert ttls(desk, entries) <= {299, 300}
    assert 299 <= desk.client.ttl(desk.keys.delivery + entries[0].uid) <= 300


async def test_a_record_has_a_limit_once_its_callback_has_ended(
    start_hook: StartHook, open_desk: OpenDesk, open_sender: OpenSender
) -> None:
    hook = await start_hook("500 Oh", "410 Gone")
    desk = open_desk(callback_schedule_s=(0.3, 0.3), result_ttl_s=300, dead_ttl_s=900)
    entries, sender = desk.ended(hook.url()), await open_sender(desk.settings)
    assert await turn(sender) == Tally(posts=1, again=1)
    assert ttls(desk, entries) == {-1}
    await desk.finish(sender, *entries)
    assert ttls(desk, entries) <= {899, 900}
    assert desk.runner.run(sender.calls.redeliver(entries[0].slot, entries[0].uid)) == ""
    assert ttls(desk, entries) == {-1}
    await desk.finish(sender, *entries)
    assert desk.states(*entries) == {"delivered"}
    assert ttls(desk, entries) <= {299, 300}


async def test_a_url_that_is_refused_now_is_tried_again(
    start_hook: StartHook, open_desk: OpenDesk, open_sender: OpenSender
) -> None:
    hook, desk = await start_hook(), open_desk(callback_schedule_s=(0.3, 0.3))
    (entry,) = desk.ended(hook.url())
    narrow = desk.settings.model_copy(update={"callback_allow": ("10.0.0.0/8",)})
    assert await turn(await open_sender(narrow)) == Tally(posts=1, again=1)
    assert (desk.states(entry), hook.connections) == ({"pending"}, 0)
    await desk.finish(await open_sender(desk.settings), entry)
    assert (desk.states(entry), hook.ids) == ({"delivered"}, [entry.job_id])


async def test_nothing_is_sent_without_a_secret_for_its_host(
    start_hook: StartHook, open_desk: OpenDesk, open_sender: OpenSender
) -> None:
    desk = open_desk(
        callback_secrets=(f"other.example={new_secret()}",), callback_schedule_s=(0.05,)
    )
    hook = await start_hook()
    (entry,) = desk.ended(hook.url())
    tally = await desk.finish(await open_sender(desk.settings), entry)
    assert tally == Tally(posts=2, again=1, dead=1)
    callback = desk.callback(entry)
    assert (callback.state, callback.last_status, hook.connections) == ("dead", None, 0)
    assert "there is no secret to sign what goes to 127.0.0.1" in callback.log[0].note


async def test_a_receiver_that_is_down_is_left_alone_after_some_attempts(
    start_hook: StartHook, open_desk: OpenDesk, open_sender: OpenSender
) -> None:
    hook, desk = await start_hook(*["503 No"] * 50), open_desk(callback_schedule_s=(0.05,) * 50)
    desk.ended(*[hook.url()] * 4)
    sender = await open_sender(desk.settings)
    while len(hook.requests) < 5:
        await turn(sender)
    await turn(sender)
    assert len(hook.requests) <= 8, "the breaker did not open"


async def test_a_record_that_is_gone_leaves_the_outbox(
    start_hook: StartHook, open_desk: OpenDesk, open_sender: OpenSender
) -> None:
    desk, hook = open_desk(), await start_hook()
    (entry,) = desk.ended(hook.url())
    desk.client.delete(desk.keys.job + entry.uid)
    assert await turn(await open_sender(desk.settings)) == Tally(posts=1)
    assert (hook.connections, desk.waiting()) == (0, set())


async def test_what_goes_wrong_in_the_sender_is_told_and_harms_no_other(
    start_hook: StartHook,
    open_desk: OpenDesk,
    open_sender: OpenSender,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    desk, hook = open_desk(), await start_hook()
    sender = await open_sender(desk.settings)
    right = sender.poster.post

    async def post(url: str, *more: Any) -> Any:
        if url.endswith("/bad"):
            raise RuntimeError("a bug")
        return await right(url, *more)

    monkeypatch.setattr(sender.poster, "post", post)
    bad, good = desk.ended(hook.url("/bad"), hook.url("/good"))
    await desk.finish(sender, good)
    assert (desk.callback(bad).state, desk.callback(good).state) == ("pending", "delivered")
    assert "callback not sent: RuntimeError" in caplog.text


async def test_a_parcel_that_the_store_has_lost_leaves_the_outbox(
    start_hook: StartHook, open_desk: OpenDesk, open_sender: OpenSender
) -> None:
    desk, hook = open_desk(), await start_hook()
    desk.ended(*[hook.url()] * 3, shared=True)
    sender = await open_sender(desk.settings)
    call = sender.calls.lease("other", lease_ms=60_000, posts=1, parcel=new_uid())
    (post,) = desk.runner.run(call).posts
    keys = shared_keys(desk.settings.namespace)
    desk.client.delete(keys.parcel + post.message_id)
    desk.client.zadd(keys.outbox + post.queue, {post.name: 1})  # as if its lease had ended
    desk.client.zadd(keys.receivers, {post.queue: 1})
    desk.runner.run(sender.calls.rest("other"))
    assert await turn(sender) == Tally(posts=1)
    assert (hook.connections, desk.waiting()) == (0, set())


@pytest.mark.parametrize("how", ["record", "delivery"])
async def test_what_cannot_be_read_is_given_up_once(
    start_hook: StartHook,
    open_desk: OpenDesk,
    open_sender: OpenSender,
    caplog: pytest.LogCaptureFixture,
    how: str,
) -> None:
    hook, desk = await start_hook(), open_desk(callback_schedule_s=QUICK)
    bad, good = desk.ended(*[hook.url()] * 2)
    key = desk.keys.job if how == "record" else desk.keys.delivery
    desk.client.set(key + bad.uid, "nonsense")
    sender = await open_sender(desk.settings)
    assert await turn(sender) == Tally(posts=2, delivered=1, dead=1)
    assert await turn(sender) == Tally()
    assert hook.ids == [good.job_id]
    assert caplog.text.count("given up (") == 1
    assert f"callback {bad.job_id} given up (not sent: its record cannot be read" in caplog.text
    assert desk.waiting() == set()


async def test_where_reading_fails_each_callback_is_read_by_itself(
    start_hook: StartHook,
    open_desk: OpenDesk,
    open_sender: OpenSender,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hook, desk = await start_hook(), open_desk()
    bad, *good = desk.ended(*[hook.url()] * 5)
    sender = await open_sender(desk.settings)
    right = sender.letters._pieces

    async def pieces(entries: Sequence[Entry], most: int) -> Any:
        if bad in entries:
            raise RuntimeError("a bug")
        return await right(entries, most)

    monkeypatch.setattr(sender.letters, "_pieces", pieces)
    await desk.finish(sender, *good)
    assert sorted(hook.ids) == sorted(entry.job_id for entry in good)
    assert desk.states(bad) == {"pending"}
    assert "callbacks are read one by one" in caplog.text
    assert caplog.text.count("callback not sent: RuntimeError") == 1
