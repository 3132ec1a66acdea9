"""Tasks that submit in one turn of the event loop share calls; one that is cancelled goes alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from umbel import _aio_gather
from umbel._aio_gather import AsyncGather
from umbel._inbox import Inbox
from umbel._way import Target
from umbel_batching.lanes import Lane, keyed_uid, new_uid
from umbel_batching.values import Accepted, Known, NewJob
from umbel_config.errors import LaneFull, StoreUnavailable
from umbel_registry import Signature, TensorSpec

SPEC = {"x": TensorSpec(dtype="float32")}
TARGET = Target(Lane(model="m", version="1"), Signature(inputs=SPEC, outputs=SPEC))
OTHER = Target(Lane(model="m", version="2"), Signature(inputs=SPEC, outputs=SPEC))


class FakeSession:
    """A store that answers once its gate is open."""

    store = "one"

    def __init__(self) -> None:
        self.inbox = Inbox()
        self.gate = asyncio.Event()
        self.gate.set()
        self.room = 10_000
        self.errors: list[Exception] = []
        self.conflicts: set[str] = set()
        self.calls: list[list[str]] = []

    async def submit(self, target: Target, jobs: Sequence[NewJob]) -> Accepted:
        self.calls.append([job.uid for job in jobs])
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop()
        places = [place for place, job in enumerate(jobs) if job.uid in self.conflicts]
        known = {at: Known(target.lane.slot, jobs[at].uid, same=False) for at in places}
        if known:
            return Accepted(0, known)
        if len(jobs) > self.room:
            raise LaneFull("full", retry_after=1)
        self.room -= len(jobs)
        return Accepted(0)


def plain(count: int) -> list[NewJob]:
    return [NewJob(new_uid(), b"x" * 50) for _ in range(count)]


async def turn() -> None:
    """One turn of the event loop: all that was begun before has its first step."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    loop.call_soon(over.set_result, None)
    await over


def uids(jobs: Sequence[NewJob]) -> list[str]:
    return [job.uid for job in jobs]


class Scene:
    """A gather, and tasks that submit through it."""

    def __init__(self) -> None:
        self.session = FakeSession()
        self.gather = AsyncGather(self.session)  # type: ignore[arg-type]

    def start(self, jobs: Sequence[NewJob], target: Target = TARGET) -> list[asyncio.Task[Any]]:
        return [asyncio.create_task(self.gather.submit(target, new)) for new in jobs]

    async def called(self, count: int) -> None:
        while len(self.session.calls) < count:
            await turn()

    async def end(self, tasks: Sequence[asyncio.Task[Any]]) -> list[Any]:
        self.session.gate.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await self.gather.settled()
        assert self.gather._lanes == {}
        return outcomes


def kinds(outcomes: Sequence[Any]) -> list[str]:
    return [type(each).__name__ for each in outcomes]


async def test_jobs_of_one_turn_go_together_and_lanes_apart() -> None:
    scene, ours, theirs = Scene(), plain(5), plain(2)
    tasks = scene.start(ours) + scene.start(theirs, OTHER)
    jobs = await scene.end(tasks)
    assert scene.session.calls == [uids(ours), uids(theirs)]
    assert [job.id[9:] for job in jobs] == uids([*ours, *theirs])


async def test_jobs_gather_while_as_many_calls_as_may_are_under_way() -> None:
    scene = Scene()
    scene.session.gate.clear()
    tasks = []
    for calls in range(1, _aio_gather.CALLS + 1):
        tasks += scene.start(plain(1))
        await scene.called(calls)
    rest = plain(5)
    for new in rest:
        tasks += scene.start([new])
        await turn()
    assert kinds(await scene.end(tasks)) == ["AsyncJob"] * len(tasks)
    assert scene.session.calls[_aio_gather.CALLS :] == [uids(rest)]


async def test_cancelled_caller_takes_nobody_with_it() -> None:
    scene = Scene()
    scene.session.gate.clear()
    under_way = scene.start(plain(3))
    await scene.called(1)
    under_way[0].cancel()
    more = []
    for _ in range(1, _aio_gather.CALLS):
        more += scene.start(plain(1))
        await scene.called(len(more) + 1)
    gathered = plain(3)
    waiting = scene.start(gathered)
    await turn()
    waiting[1].cancel()
    outcomes = await scene.end([*under_way, *more, *waiting])
    assert kinds(outcomes[:3]) == ["CancelledError", "AsyncJob", "AsyncJob"]
    assert kinds(outcomes[-3:]) == ["AsyncJob", "CancelledError", "AsyncJob"]
    assert scene.session.calls[-1] == [gathered[0].uid, gathered[2].uid], "not what nobody awaits"


async def test_refusals_reach_those_whom_they_concern() -> None:
    scene, jobs = Scene(), plain(6)
    wrong = NewJob(keyed_uid("m", "k"), b"x" * 50, 0, "f" * 32)
    scene.session.conflicts = {wrong.uid}
    scene.session.room = 4
    outcomes = await scene.end(scene.start([*jobs[:2], wrong, *jobs[2:]]))
    there = ["AsyncJob"] * 2
    full = ["LaneFull"] * 2
    assert kinds(outcomes) == [*there, "IdempotencyConflict", *there, *full]
    assert outcomes[-1] is not outcomes[-2]
    assert len(scene.session.inbox.expected()) == 4


async def test_store_that_is_away_is_told_to_all() -> None:
    scene = Scene()
    scene.session.errors = [StoreUnavailable("gone")]
    outcomes = await scene.end(scene.start(plain(3)))
    assert kinds(outcomes) == ["StoreUnavailable"] * 3
    assert len({id(each) for each in outcomes}) == 3
    assert scene.session.inbox.expected() == []


async def test_caller_that_is_cancelled_while_its_call_fails_leaves_no_warning() -> None:
    scene = Scene()
    scene.session.gate.clear()
    tasks = scene.start(plain(1))
    await scene.called(1)
    scene.session.errors = [StoreUnavailable("gone")]
    tasks[0].cancel()
    assert kinds(await scene.end(tasks)) == ["CancelledError"]


def test_event_loop_that_ends_leaves_nobody_waiting() -> None:
    ended: list[BaseException] = []

    async def main() -> None:
        scene = Scene()
        scene.session.gate.clear()

        async def submit(new: NewJob) -> None:
            try:
                await asyncio.shield(scene.gather.submit(TARGET, new))
            except BaseException as error:
                ended.append(error)
                raise

        tasks = [asyncio.create_task(submit(new)) for new in plain(3)]
        await scene.called(1)
        assert len(tasks) == 3

    asyncio.run(main())
    assert kinds(ended) == ["CancelledError"] * 3


@pytest.mark.parametrize("count", [1, 600])
async def test_all_that_was_given_is_settled(count: int) -> None:
    scene, jobs = Scene(), plain(count)
    tasks = scene.start(jobs)
    await turn()
    await scene.gather.settled()
    assert [len(call) for call in scene.session.calls] == [256] * (count // 256) + [count % 256]
    assert kinds(await scene.end(tasks)) == ["AsyncJob"] * count
