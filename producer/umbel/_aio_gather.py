"""Single submits of many tasks in common calls; see ``_gather``."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from umbel._aio_job import AsyncJob
from umbel._singles import Gathering, Part, Single
from umbel._submission import Bundle
from umbel._way import Target
from umbel_batching.values import NewJob

if TYPE_CHECKING:  # a session knows nothing of submissions
    from umbel._aio_session import AsyncSession

#: Calls of one lane under way at the same time.
CALLS = 2


class _Single(Single[AsyncJob]):
    """A job whose task awaits its future."""

    __slots__ = ("answer",)

    def __init__(self, new: NewJob) -> None:
        super().__init__(new)
        self.answer: asyncio.Future[AsyncJob] = asyncio.get_running_loop().create_future()

    def told(self) -> None:
        if self.answer.done():  # cancelled in this very moment
            return
        if self.job is not None:
            self.answer.set_result(self.job)
        elif self.error is not None:
            self.answer.set_exception(self.error)


class _Lane:
    """The submits of one lane: where they go, those that wait, and the calls for them."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.gathering: Gathering[_Single, AsyncJob] = Gathering()
        self.calls = 0
        self.starting = False


class AsyncGather:
    """Brings single jobs into their lanes, those that come at the same time together.

    Calls are made by tasks of their own, so that a caller may be cancelled without the jobs of
    others. A task begins in the next turn of the event loop, with all that came in this one.

    Args:
        session: of the client.
    """

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._lanes: dict[str, _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, target: Target, new: NewJob) -> AsyncJob:
        """Submits one job; see ``Gather.submit``."""
        single, name = _Single(new), target.lane.name
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = _Lane(target)
        lane.gathering.add(single)
        if not lane.starting and lane.calls < CALLS:
            lane.starting = True
            lane.calls += 1
            task = asyncio.create_task(self._carry(name, lane))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            return await single.answer
        finally:
            single.gone = True

    async def settled(self) -> None:
        """Waits until all jobs given so far are answered."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _carry(self, name: str, lane: _Lane) -> None:
        part: Part[_Single] | None = None
        try:
            lane.starting = False
            while (part := lane.gathering.take()) is not None:
                await self._send(lane, part)
        except asyncio.CancelledError:  # the event loop ends, and all its tasks with it
            for single in part.singles if part else ():
                single.answer.cancel()
            lane.gathering.abandon(lambda single: single.answer.cancel())
            raise
        finally:
            lane.calls -= 1
            if not lane.calls:
                self._lanes.pop(name, None)

    async def _send(self, lane: _Lane, part: Part[_Single]) -> None:
        new, make = part.new, partial(AsyncJob, self._session, store=self._session.store)
        bundle = Bundle(self._session.inbox, make, lane.target.lane.slot, new)
        try:
            answer = await self._session.submit(lane.target, new)
        except Exception as error:  # noqa: BLE001  (it is raised by those whom it concerns)
            lane.gathering.failed(part, bundle, error)
        except BaseException:
            bundle.refused()
            raise
        else:
            lane.gathering.accepted(part, bundle, answer)
