"""Turns of the sender: what ends them, what they wait for, and what closing leaves behind."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import ConnectionError as Away

from umbel_batching.keys import shared_keys
from umbel_batching.lanes import new_uid
from umbel_callbacks import sender as module
from umbel_callbacks.sender import Sender, Tally

if TYPE_CHECKING:  # fixtures
    from tests.integration.callbacks.conftest import OpenDesk, OpenSender, StartHook, Until

BUDGET_S = 5.0


async def turn(sender: Sender, budget_s: float = BUDGET_S, flag: Any = None) -> Tally:
    return await sender.turn(new_uid(), budget_s, flag or threading.Event())


async def test_the_stop_flag_ends_a_turn_after_what_is_under_way(
    start_hook: StartHook, open_desk: OpenDesk, open_sender: OpenSender, until: Until
) -> None:
    hook, desk, flag = await start_hook(), open_desk(callback_host_concurrency=1), threading.Event()
    hook.open.clear()
    entries = desk.ended(*[hook.url()] * 2)
    sender = await open_sender(desk.settings)
    turning = asyncio.create_task(turn(sender, flag=flag))
    await until(lambda: hook.now == 1, "the first is under way")
    flag.set()
    done, _ = await asyncio.wait([turning], timeout=0.3)
    assert not done, "it did not wait for what was under way"
    hook.open.set()
    assert await turning == Tally(posts=1, delivered=1)
    assert sorted(desk.callback(entry).state for entry in entries) == ["delivered", "pending"]
    assert len(hook.requests) == 1


async def test_a_turn_without_work_ends_by_itself(
    open_desk: OpenDesk, open_sender: OpenSender
) -> None:
    desk = open_desk()
    began = time.monotonic()
    assert await turn(await open_sender(desk.settings)) == Tally()
    assert module._LINGER_S <= time.monotonic() - began < BUDGET_S
    assert desk.waiting() == set()


async def test_a_turn_hears_of_what_comes_while_it_lingers(
    start_hook: StartHook,
    open_desk: OpenDesk,
    open_sender: OpenSender,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_LINGER_S", 60)
    hook, desk, flag = await start_hook(), open_desk(), threading.Event()
    turning = asyncio.create_task(turn(await open_sender(desk.settings), 60, flag))
    senders = shared_keys(desk.settings.namespace).senders
    await until(lambda: desk.client.zcard(senders), "the sender is there")
    (entry,) = desk.ended(hook.url())
    await until(lambda: desk.states(entry) == {"delivered"}, "it is delivered by the same turn")
    flag.set()
    assert await turning == Tally(posts=1, delivered=1)


async def test_a_spent_budget_ends_a_turn_and_what_is_under_way_goes_on(
    start_hook: StartHook, open_desk: OpenDesk, open_sender: OpenSender, until: Until
) -> None:
    hook, desk = await start_hook(), open_desk()
    hook.open.clear()
    (entry,) = desk.ended(hook.url())
    sender = await open_sender(desk.settings)
    assert await turn(sender, 0.0) == Tally()
    assert hook.requests == []
    assert await turn(sender, 0.2) == Tally()
    await until(lambda: hook.now, "it is under way")
    hook.open.set()
    await until(lambda: desk.states(entry) == {"delivered"}, "it is delivered after the turn")
    assert len(hook.requests) == 1


async def test_a_stop_while_a_turn_waits_for_a_place_takes_nothing_more(
    start_hook: StartHook, open_desk: OpenDesk, open_sender: OpenSender, until: Until
) -> None:
    hook, desk, flag = await start_hook(), open_desk(callback_concurrency=1), threading.Event()
    hook.open.clear()
    entries = desk.ended(*[hook.url()] * 3)
    sender = await open_sender(desk.settings)
    turning = asyncio.create_task(turn(sender, flag=flag))
    await until(lambda: hook.now == 1, "its only place is taken")
    flag.set()
    hook.open.set()
    assert await turning == Tally(posts=1, delivered=1)
    assert len(hook.requests) == 1
    assert sorted(desk.callback(entry).state for entry in entries) == [
        "delivered",
        "pending",
        "pending",
    ]
    keys = shared_keys(desk.settings.namespace)
    assert not list(desk.client.scan_iter(match=f"{keys.underway}*")), "one was taken, not sent"


async def test_a_turn_that_waits_for_a_place_says_that_it_is_still_there(
    start_hook: StartHook,
    open_desk: OpenDesk,
    open_sender: OpenSender,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_THERE_MS", 100)
    hook, desk = await start_hook(), open_desk(callback_concurrency=1)
    hook.open.clear()
    entries = desk.ended(*[hook.url()] * 2)
    sender, senders = await open_sender(desk.settings), shared_keys(desk.settings.namespace).senders
    turning = asyncio.create_task(sender.turn("me", BUDGET_S, threading.Event()))
    await until(lambda: hook.now == 1, "its only place is taken")
    for _ in range(2):
        said = desk.client.zscore(senders, "me")
        assert said is not None
        await until(lambda: (desk.client.zscore(senders, "me") or 0) > said, "it says so again")  # noqa: B023
    assert (hook.now, len(hook.requests)) == (1, 1)
    hook.open.set()
    await turning
    await desk.finish(sender, *entries)


async def test_a_look_that_met_only_closed_receivers_is_followed_by_another_at_once(
    start_hook: StartHook,
    open_desk: OpenDesk,
    open_sender: OpenSender,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_FIRST_LOOK_S", 60)
    monkeypatch.setattr(module, "_LONGEST_LOOK_S", 60)
    hook, desk = await start_hook(), open_desk()
    keys = shared_keys(desk.settings.namespace)
    closed = [f"127.0.{n // 200}.{n % 200 + 2}:9" for n in range(300)]
    desk.ended(*[f"http://{receiver}/hook" for receiver in closed])
    for receiver in closed:
        desk.client.hset(keys.receiver + receiver, "open_until", 9_999_999_999_999)
    (entry,) = desk.ended(hook.url())
    desk.client.zadd(keys.receivers, dict.fromkeys(closed, 1))
    turning = asyncio.create_task(turn(await open_sender(desk.settings)))
    await until(lambda: desk.states(entry) == {"delivered"}, "it is found behind all others")
    turning.cancel()
    with suppress(asyncio.CancelledError):
        await turning


async def test_an_outage_while_callbacks_are_read_ends_the_turn(
    start_hook: StartHook,
    open_desk: OpenDesk,
    open_sender: OpenSender,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def read(_: Any) -> Any:
        raise Away("gone")

    hook, desk = await start_hook(), open_desk()
    (entry,) = desk.ended(hook.url())
    sender = await open_sender(desk.settings)
    monkeypatch.setattr(sender.letters, "read", read)
    with pytest.raises(Away):
        await turn(sender)
    assert desk.states(entry) == {"pending"}
    assert (hook.connections, desk.client.zcard(shared_keys(desk.settings.namespace).senders)) == (
        0,
        0,
    )


async def test_closing_waits_for_what_is_under_way(
    start_hook: StartHook, open_desk: OpenDesk, open_sender: OpenSender, until: Until
) -> None:
    hook, desk = await start_hook(), open_desk()
    hook.open.clear()
    (entry,) = desk.ended(hook.url())
    sender = await open_sender(desk.settings)
    await turn(sender, 0.2)
    await until(lambda: hook.now, "it is under way")
    closing = asyncio.create_task(sender.aclose())
    done, _ = await asyncio.wait([closing], timeout=0.2)
    assert not done, "it did not wait for what was under way"
    hook.open.set()
    await closing
    assert desk.states(entry) == {"delivered"}
    assert len(hook.requests) == 1


async def test_closing_waits_no_longer_than_an_attempt_may_take(
    open_desk: OpenDesk, open_sender: OpenSender, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def post(*_: Any) -> Any:
        began.set()
        await asyncio.Event().wait()

    began, desk = asyncio.Event(), open_desk(callback_timeout_s=0.1)
    (entry,) = desk.ended("http://127.0.0.1:9/hook")
    sender = await open_sender(desk.settings)
    monkeypatch.setattr(sender.poster, "post", post)
    await turn(sender, 0.2)
    assert began.is_set()
    await sender.aclose()
    assert desk.states(entry) == {"pending"}
    keys = shared_keys(desk.settings.namespace)
    assert list(desk.client.scan_iter(match=f"{keys.underway}*")), "its lease is left to end"
