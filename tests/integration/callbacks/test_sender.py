"""The sender on a real Redis, with real receivers: what arrives, what is tried again, what ends."""

from __future__ import annotations

import json
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from standardwebhooks import Webhook

from umbel_batching.lanes import new_uid
from umbel_batching.record import Failure
from umbel_callbacks import sender as module
from umbel_callbacks.sender import Sender, Tally
from umbel_callbacks.signing import new_secret

if TYPE_CHECKING:  # fixtures
    from tests.integration.callbacks.conftest import (
        Connection,
        Desk,
        OpenDesk,
        OpenSender,
        Request,
        StartHook,
        StartListener,
        Until,
    )

QUICK = (0.05, 0.05)
BUDGET_S = 5.0


async def turn(sender: Sender, budget_s: float = BUDGET_S, flag: Any = None) -> Tally:
    return await sender.turn(new_uid(), budget_s, flag or threading.Event())


def secret_of(desk: Desk) -> str:
    return desk.settings.callback_secrets[0].get_secret_value()


def verified(desk: Desk, request: Request) -> Any:
    """What a request says, once the library of the standard has found its signature right."""
    return Webhook(secret_of(desk)).verify(request.body, request.headers)


async def test_a_callback_is_delivered_with_a_valid_signature(
    start_hook: StartHook, open_desk: OpenDesk, open_sender: OpenSender
) -> None:
    hook, desk = await start_hook(), open_desk()
    (entry,) = desk.ended(hook.url(), output=[1, 2])
    tally = await desk.finish(await open_sender(desk.settings), entry)
    assert tally == Tally(posts=1, delivered=1)
    (request,) = hook.requests
    event = verified(desk, request)
    assert (event["data"]["id"], event["data"]["output"]) == (entry.job_id, [1, 2])
    assert hook.ids == [entry.job_id]
    callback = desk.callback(entry)
    assert (callback.state, callback.attempts, callback.last_status) == ("delivered", 1, 204)
    assert callback.next_at is None
    assert desk.waiting() == set()


async def test_failures_are_tried_again_with_the_same_id_and_a_newer_timestamp(
    start_hook: StartHook,
    open_desk: OpenDesk,
    open_sender: OpenSender,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ticks = iter(range(100))
    clock = SimpleNamespace(monotonic=time.monotonic, time=lambda: time.time() + next(ticks))
    monkeypatch.setattr(module, "time", clock)
    hook, desk = await start_hook("500 Oh", "502 No"), open_desk(callback_schedule_s=QUICK)
    (entry,) = desk.ended(hook.url())
    tally = await desk.finish(await open_sender(desk.settings), entry)
    assert tally == Tally(posts=3, delivered=1, again=2)
    assert hook.ids == [entry.job_id] * 3
    assert len({request.body for request in hook.requests}) == 1
    for request in hook.requests:
        verified(desk, request)
    moments = [int(request.headers["webhook-timestamp"]) for request in hook.requests]
    assert moments == sorted(set(moments))
    callback = desk.callback(entry)
    assert (callback.state, callback.attempts) == ("delivered", 3)
    assert [(line.status, line.note) for line in callback.log] == [
        (500, "Oh"),
        (502, "No"),
        (204, ""),
    ]
    assert caplog.text.count("callback not delivered") == 1
    assert "hidden" not in caplog.text


async def test_the_schedule_has_an_end(
    start_hook: StartHook,
    open_desk: OpenDesk,
    open_sender: OpenSender,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hook = await start_hook(*["500 Oh"] * 9)
    desk = open_desk(callback_schedule_s=QUICK)
    (entry,) = desk.ended(hook.url())
    tally = await desk.finish(await open_sender(desk.settings), entry)
    assert tally == Tally(posts=3, again=2, dead=1)
    callback = desk.callback(entry)
    assert (callback.state, callback.attempts, callback.next_at) == ("dead", 3, None)
    assert callback.log[-1].note == "Oh; given up after 3 attempts"
    assert f"callback {entry.job_id} given up (status 500, Oh; given up after 3" in caplog.text
    assert "hidden" not in caplog.text
    assert desk.waiting() == set()


async def test_gone_is_the_end_at_once(
    start_hook: StartHook, open_desk: OpenDesk, open_sender: OpenSender
) -> None:
    hook, desk = await start_hook("410 Gone"), open_desk(callback_schedule_s=QUICK)
    (entry,) = desk.ended(hook.url())
    tally = await desk.finish(await open_sender(desk.settings), entry)
    assert tally == Tally(posts=1, dead=1)
    assert (desk.callback(entry).state, len(hook.requests)) == ("dead", 1)


async def test_a_receiver_that_asks_for_time_gets_it(
    start_hook: StartHook, open_desk: OpenDesk, open_sender: OpenSender, until: Until
) -> None:
    hook = await start_hook("429 Slow down|Retry-After: 1")
    desk = open_desk(callback_schedule_s=QUICK, callback_host_concurrency=1)
    entries = desk.ended(*[hook.url()] * 3)
    sender = await open_sender(desk.settings)
    began = time.monotonic()
    assert await turn(sender) == Tally(posts=1, again=1)
    assert len(hook.requests) == 1, "another callback went to a receiver that asked for time"
    await desk.finish(sender, *entries)
    assert time.monotonic() - began >= 1
    assert len(hook.requests) == 4


async def test_a_host_with_a_secret_of_its_own_gets_no_other(
    start_hook: StartHook, open_desk: OpenDesk, open_sender: OpenSender
) -> None:
    own, common, hook = new_secret(), new_secret(), await start_hook()
    desk = open_desk(callback_secrets=(common, f"127.0.0.1={own}"))
    (entry,) = desk.ended(hook.url())
    await desk.finish(await open_sender(desk.settings), entry)
    (request,) = hook.requests
    assert Webhook(own).verify(request.body, request.headers)
    assert " " not in request.headers["webhook-signature"]


async def test_secrets_that_rotate_sign_side_by_side(
    start_hook: StartHook, open_desk: OpenDesk, open_sender: OpenSender
) -> None:
    secrets, hook = (new_secret(), new_secret()), await start_hook()
    desk = open_desk(callback_secrets=secrets)
    (entry,) = desk.ended(hook.url())
    await desk.finish(await open_sender(desk.settings), entry)
    (request,) = hook.requests
    assert all(Webhook(each).verify(request.body, request.headers) for each in secrets)


async def test_many_results_in_one_post_keep_its_id_over_retries(
    start_hook: StartHook, open_desk: OpenDesk, open_sender: OpenSender
) -> None:
    hook, desk = await start_hook("500 Oh", "503 No"), open_desk(callback_schedule_s=QUICK)
    entries = desk.ended(*[hook.url()] * 30, shared=True)
    tally = await desk.finish(await open_sender(desk.settings), *entries)
    assert tally == Tally(posts=3, delivered=30, again=60)
    assert len(set(hook.ids)) == 1
    assert len({request.body for request in hook.requests}) == 1
    told = verified(desk, hook.requests[2])
    assert told["type"] == "job.batch"
    assert {each["data"]["id"] for each in told["data"]} == {entry.job_id for entry in entries}
    assert {desk.callback(entry).attempts for entry in entries} == {3}
    assert desk.waiting() == set()


async def test_parcels_are_no_larger_than_is_set(
    start_hook: StartHook, open_desk: OpenDesk, open_sender: OpenSender
) -> None:
    hook, desk = await start_hook(), open_desk(callback_batch_size=10)
    entries = desk.ended(*[hook.url()] * 25, shared=True)
    alone = desk.ended(*[hook.url()] * 2)
    await desk.finish(await open_sender(desk.settings), *entries, *alone)
    told = [verified(desk, request) for request in hook.requests]
    sizes = [len(each["data"]) for each in told if each["type"] == "job.batch"]
    assert sorted(sizes) == [5, 10, 10]
    assert len(hook.requests) == 5
    assert len(set(hook.ids)) == 5
    assert desk.states(*entries, *alone) == {"delivered"}


async def test_parcels_are_no_larger_than_thin_results_fit_in(
    start_hook: StartHook, open_desk: OpenDesk, open_sender: OpenSender
) -> None:
    link = "https://app.example.com/{id}"
    desk = open_desk(callback_max_bytes=5 * 1024, callback_link=link, callback_payload="thin")
    hook = await start_hook()
    entries = desk.ended(*[hook.url()] * 25, shared=True)
    await desk.finish(await open_sender(desk.settings), *entries)
    sizes = [len(verified(desk, request)["data"]) for request in hook.requests]
    assert sorted(sizes) == [5, 10, 10]
    assert max(len(request.body) for request in hook.requests) <= 5 * 1024


async def test_thin_by_setting(
    start_hook: StartHook, open_desk: OpenDesk, open_sender: OpenSender
) -> None:
    hook = await start_hook()
    desk = open_desk(callback_payload="thin", callback_link="https://app.example.com/{id}")
    (entry,) = desk.ended(hook.url(), output="secret")
    await desk.finish(await open_sender(desk.settings), entry)
    data = verified(desk, hook.requests[0])["data"]
    assert data["link"] == f"https://app.example.com/{entry.job_id}"
    assert b"secret" not in hook.requests[0].body


async def test_a_receiver_that_dies_in_the_middle_is_tried_again(
    start_hook: StartHook, listen: StartListener, open_desk: OpenDesk, open_sender: OpenSender
) -> None:
    hook, lives = await start_hook(), iter([False, True])

    async def serve(connection: Connection) -> None:
        if next(lives, True):
            await hook.serve(connection)
        await connection.head()
        await connection.reader.readexactly(2)

    desk = open_desk(callback_schedule_s=QUICK)
    (entry,) = desk.ended((await listen(serve)).url())
    tally = await desk.finish(await open_sender(desk.settings), entry)
    assert tally == Tally(posts=2, delivered=1, again=1)
    first, second = desk.callback(entry).log
    assert first.note == "the connection was closed without an answer"
    assert (first.status, second.status) == (0, 204)


async def test_a_job_that_is_replayed_has_a_callback_with_an_id_of_its_own(
    start_hook: StartHook, open_desk: OpenDesk, open_sender: OpenSender
) -> None:
    hook, desk = await start_hook(), open_desk()
    (entry,) = desk.submit(hook.url())
    sender = await open_sender(desk.settings)
    desk.settle(error=Failure("ValueError", "unlucky"))
    await desk.finish(sender, entry)
    assert desk.runner.run(desk.calls.replay(desk.lane.slot, entry.uid)).done
    desk.settle("fine")
    await desk.finish(sender, entry)
    assert hook.ids == [entry.job_id, f"{entry.job_id}-1"]
    kinds = [json.loads(request.body)["type"] for request in hook.requests]
    assert kinds == ["job.failed", "job.succeeded"]


async def test_a_callback_that_is_redelivered_keeps_its_id(
    start_hook: StartHook, open_desk: OpenDesk, open_sender: OpenSender
) -> None:
    hook, desk = await start_hook("410 Gone"), open_desk()
    (entry,) = desk.ended(hook.url())
    sender = await open_sender(desk.settings)
    await desk.finish(sender, entry)
    assert desk.states(entry) == {"dead"}
    assert desk.runner.run(sender.calls.redeliver(entry.slot, entry.uid)) == ""
    await desk.finish(sender, entry)
    assert desk.states(entry) == {"delivered"}
    assert hook.ids == [entry.job_id] * 2
