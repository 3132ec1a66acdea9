"""Who gets how many places of a sender: hanging, slow and large receivers hold up no other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest

from umbel_batching.keys import shared_keys
from umbel_batching.lanes import new_uid
from umbel_batching.receivers import receiver_statuses
from umbel_callbacks import names
from umbel_callbacks import sender as module
from umbel_callbacks.sender import Sender, Tally

if TYPE_CHECKING:  # fixtures
    from tests.integration.callbacks.conftest import (
        Desk,
        Hook,
        Listener,
        OpenDesk,
        OpenSender,
        StartHook,
        StartListener,
        Until,
    )

Count = Callable[[], int]


async def turn(sender: Sender) -> Tally:
    return await sender.turn(new_uid(), 5.0, threading.Event())


@pytest.fixture
def vain(monkeypatch: pytest.MonkeyPatch) -> Count:
    """How often a sender has looked for work in vain since it last found some."""
    look, looks = Sender._look, [0]

    async def counted(self: Sender, *given: Any) -> bool:
        found = await look(self, *given)
        looks[0] = 0 if found else looks[0] + 1
        return found

    monkeypatch.setattr(Sender, "_look", counted)
    return lambda: looks[0]


@pytest.fixture
def at_rest(vain: Count, until: Until) -> Callable[..., Any]:
    """Waits until a sender takes no more, and all that it took has arrived."""

    async def wait(sender: Sender, *hooks: Hook, least: int = 1) -> None:
        def reached() -> bool:
            now = sum(hook.now for hook in hooks)
            return vain() >= 3 and now == len(sender._under_way) >= least

        await until(reached, "the sender takes no more")

    return wait


@asynccontextmanager
async def sending(sender: Sender, *hooks: Hook) -> AsyncIterator[None]:
    """A turn that lasts as long as the block; then all answers are given."""
    flag = threading.Event()
    turning = asyncio.create_task(sender.turn(new_uid(), 100, flag))
    try:
        yield
    finally:
        flag.set()
        for hook in hooks:
            hook.open.set()
        await turning


@pytest.fixture
def patient(open_desk: OpenDesk, monkeypatch: pytest.MonkeyPatch) -> OpenDesk:
    """A desk whose sender waits long for answers, and for work."""
    monkeypatch.setattr(module, "_LINGER_S", 100)
    times = {"callback_timeout_s": 60, "callback_read_timeout_s": 60}
    return lambda **overrides: open_desk(**(times | overrides))


def trust(desk: Desk, *places: Listener, most: int = 32) -> None:
    """Makes receivers look as if they had done well for long."""
    prefix = shared_keys(desk.settings.namespace).receiver
    for place in places:
        desk.client.hset(f"{prefix}127.0.0.1:{place.port}", "limit", most)


async def listening(listen: StartListener, hook: Hook, count: int) -> list[Listener]:
    """Receivers that are served by one hook."""
    return [await listen(hook.serve) for _ in range(count)]


async def test_forty_receivers_that_hang_leave_places_to_a_quick_one(
    start_hook: StartHook,
    listen: StartListener,
    patient: OpenDesk,
    open_sender: OpenSender,
    until: Until,
    at_rest: Callable[..., Any],
) -> None:
    slow, quick, desk = await start_hook(), await start_hook(), patient(callback_concurrency=512)
    slow.open.clear()
    places = await listening(listen, slow, 40)
    trust(desk, *places)
    late = desk.ended(*[place.url() for place in places] * 32)
    sender = await open_sender(desk.settings)
    async with sending(sender, slow):
        await at_rest(sender, slow, least=256)
        taken = slow.now
        assert taken < 256 + 64, "they took more than half of the places, and one lease"
        soon = desk.ended(*[quick.url()] * 20)
        await until(lambda: desk.states(*soon) == {"delivered"}, "the quick receiver has all")
        assert (slow.now, len(slow.requests), quick.now) == (taken, taken, 0), "all others hang"
        assert desk.states(*late) == {"pending"}


async def test_receivers_that_are_slow_but_succeed_leave_places_to_a_quick_one(
    start_hook: StartHook,
    listen: StartListener,
    patient: OpenDesk,
    open_sender: OpenSender,
    until: Until,
    at_rest: Callable[..., Any],
) -> None:
    slow, quick, desk = await start_hook(), await start_hook(), patient(callback_concurrency=192)
    slow.open.clear()
    places = await listening(listen, slow, 8)
    trust(desk, *places)
    late = desk.ended(*[place.url() for place in places] * 100)
    sender = await open_sender(desk.settings)
    async with sending(sender, slow):
        for _ in range(3):
            await at_rest(sender, slow, least=96)
            taken = len(slow.requests)
            slow.open.set()
            slow.open.clear()  # those that wait have their answer
            await until(lambda: len(slow.requests) > taken, "others follow them")  # noqa: B023
        await at_rest(sender, slow, least=96)
        assert slow.most < 96 + 64, "they took more than half of the places, and one lease"
        (soon,) = desk.ended(quick.url())
        await until(lambda: desk.states(soon) == {"delivered"}, "the quick receiver has its POST")
        assert slow.now >= 96
        assert desk.states(*late) == {"pending", "delivered"}


@pytest.mark.parametrize(
    ("used", "host_concurrency", "most"),
    [(9, 32, 10), (10, 32, 4), (10, 3, 3), (15, 32, 2), (15, 1, 1), (18, 32, 1), (19, 32, 1)],
)
async def test_a_receiver_has_the_fewer_places_the_fewer_there_are(
    start_hook: StartHook,
    listen: StartListener,
    patient: OpenDesk,
    open_sender: OpenSender,
    until: Until,
    at_rest: Callable[..., Any],
    used: int,
    host_concurrency: int,
    most: int,
) -> None:
    desk = patient(callback_concurrency=20, callback_host_concurrency=host_concurrency)
    others, hook = await start_hook(), await start_hook()
    others.open.clear()
    hook.open.clear()
    trust(desk, hook)
    desk.ended(*[place.url() for place in await listening(listen, others, used)])
    sender = await open_sender(desk.settings)
    async with sending(sender, others, hook):
        await at_rest(sender, others, least=used)
        desk.ended(*[hook.url()] * 10)
        await until(lambda: hook.now == most, "it has its share")
        if used + most < 20:
            await at_rest(sender, others, hook)
        assert hook.most == most


async def test_a_parcel_that_takes_long_to_write_holds_up_no_other_receiver(
    start_hook: StartHook,
    open_desk: OpenDesk,
    open_sender: OpenSender,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large, quick, desk = await start_hook(), await start_hook(), open_desk(callback_batch_size=10)
    together = desk.ended(*[large.url()] * 40, shared=True)
    alone = desk.ended(*[quick.url()] * 3)
    sender = await open_sender(desk.settings)
    right, gate, now, most = sender.letters._pieces, asyncio.Event(), [0], [0]

    async def slow(entries: Sequence[Any], bytes_each: int) -> Any:
        if not (entries and entries[0].url):
            return await right(entries, bytes_each)
        now[0] += 1
        most[0] = max(most[0], now[0])
        await gate.wait()
        now[0] -= 1
        return await right(entries, bytes_each)

    monkeypatch.setattr(sender.letters, "_pieces", slow)
    turning = asyncio.create_task(turn(sender))
    await until(lambda: desk.states(*alone) == {"delivered"}, "the others have their answers")
    assert (now, len(large.requests)) == ([2], 0), "parcels are not written two at a time"
    gate.set()
    await turning
    await desk.finish(sender, *together)
    assert (len(large.requests), most) == (4, [2])


class Lookups:
    """Takes the place of the system's lookups: good.example is found, all others hang.

    Attributes:
        asked: the names that were looked up.
        release: set, it lets them all be found.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.release = threading.Event()

    def look_up(self, host: str, port: int, begun: threading.Event) -> list[Any]:
        begun.set()
        self.asked.append(host)
        if host != "good.example":
            self.release.wait()
        return [ip_address("127.0.0.1")]


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lookups]:
    made = Lookups()
    monkeypatch.setattr(names, "_look_up", made.look_up)
    yield made
    made.release.set()


async def test_names_that_hang_do_not_close_a_good_receiver(
    start_hook: StartHook,
    open_desk: OpenDesk,
    open_sender: OpenSender,
    until: Until,
    lookups: Lookups,
) -> None:
    hook = await start_hook()
    desk = open_desk(
        callback_allow=("127.0.0.0/8", "*.example"),
        callback_connect_timeout_s=0.5,
        callback_schedule_s=(0.2,) * 100,
    )
    desk.ended(*[f"http://h{n}.example:{hook.port}/hook" for n in range(70)])
    sender = await open_sender(desk.settings)
    turning = asyncio.create_task(turn(sender))
    await until(lambda: len(lookups.asked) == names.LOOKUP_THREADS, "all threads are taken")
    entries = desk.ended(*[hook.url(host="good.example")] * 8)
    await until(lambda: all(desk.callback(each).log for each in entries), "all were tried")
    assert "good.example" not in lookups.asked
    notes = {attempt.note for each in entries for attempt in desk.callback(each).log}
    assert notes == {"good.example was not looked up: too many slow names are before it"}
    known = receiver_statuses(desk.client, desk.settings.namespace)
    (good,) = [each for each in known if each.receiver.startswith("good.example")]
    assert (good.failures, good.closed_until, good.again >= 8) == (0, None, True)
    lookups.release.set()
    await turning
    await desk.finish(sender, *entries)
    assert desk.states(*entries) == {"delivered"}


async def test_a_receiver_that_hangs_delays_no_other(
    start_hook: StartHook, open_desk: OpenDesk, open_sender: OpenSender, until: Until
) -> None:
    slow, quick, desk = await start_hook(), await start_hook(), open_desk(callback_concurrency=12)
    slow.open.clear()
    late = desk.ended(*[slow.url()] * 20)
    soon = desk.ended(*[quick.url()] * 20)
    sender = await open_sender(desk.settings)
    turning = asyncio.create_task(turn(sender))
    await until(lambda: desk.states(*soon) == {"delivered"}, "the quick receiver has all")
    assert desk.states(*late) == {"pending"}
    slow.open.set()
    await turning
    await desk.finish(sender, *late)


@pytest.mark.parametrize("most", [1, 3])
async def test_a_receiver_has_no_more_at_once_than_is_set(
    start_hook: StartHook, open_desk: OpenDesk, open_sender: OpenSender, until: Until, most: int
) -> None:
    hook, desk = await start_hook(), open_desk(callback_host_concurrency=most)
    hook.open.clear()
    entries = desk.ended(*[hook.url()] * 12)
    senders = [await open_sender(desk.settings) for _ in range(2)]
    turning = [asyncio.create_task(turn(sender)) for sender in senders]
    await until(lambda: hook.now == most, "as many as are allowed are under way")
    hook.open.set()
    tallies = await asyncio.gather(*turning)
    await desk.finish(senders[0], *entries)
    assert hook.most == most
    assert sorted(hook.ids) == sorted(entry.job_id for entry in entries)
    assert sum(tally.posts for tally in tallies) <= len(entries)


async def test_a_sender_has_no_more_under_way_than_is_set(
    start_hook: StartHook,
    listen: StartListener,
    open_desk: OpenDesk,
    open_sender: OpenSender,
    until: Until,
) -> None:
    hook, desk = await start_hook(), open_desk(callback_concurrency=3)
    hook.open.clear()
    places = [await listen(hook.serve) for _ in range(4)]
    entries = desk.ended(*[place.url() for place in places] * 3)
    sender = await open_sender(desk.settings)
    turning = asyncio.create_task(turn(sender))
    await until(lambda: hook.now == 3, "three are under way")
    hook.open.set()
    await turning
    await desk.finish(sender, *entries)
    assert hook.most == 3


async def test_a_hundred_receivers_are_served_at_once(
    start_hook: StartHook,
    listen: StartListener,
    open_desk: OpenDesk,
    open_sender: OpenSender,
    until: Until,
) -> None:
    hook, desk = await start_hook(), open_desk()
    hook.open.clear()
    places = [await listen(hook.serve) for _ in range(100)]
    entries = desk.ended(*[place.url() for place in places])
    sender = await open_sender(desk.settings)
    turning = asyncio.create_task(turn(sender))
    await until(lambda: hook.now == 100, "all have their POST at the same time")
    hook.open.set()
    await turning
    await desk.finish(sender, *entries)
    assert desk.states(*entries) == {"delivered"}
    assert {place.connections for place in places} == {1}
