"""Many jobs at once under asyncio: results as they come, or in order, some in flight."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from umbel._aio_job import AsyncJob
from umbel._aio_session import AsyncSession
from umbel._aio_submission import AsyncSubmission
from umbel._job import PUSHED_POLL_S
from umbel._patience import Patience
from umbel._stream import MAP_WINDOW, bar, chunks, not_in_time, turn
from umbel_config.errors import JobError, LaneFull, StoreUnavailable


async def completed(
    session: AsyncSession,
    jobs: list[AsyncJob],
    timeout: float | None,  # noqa: ASYNC109  (one limit for a whole iteration)
) -> AsyncIterator[AsyncJob]:
    """Yields jobs as they become terminal; see ``Client.as_completed``."""
    loop = asyncio.get_running_loop()
    end = float("inf") if timeout is None else loop.time() + timeout
    arrived: asyncio.Queue[Any] = asyncio.Queue()
    waiting = {job.id: job for job in jobs}
    for job in jobs:
        if not session.inbox.when_done(job, arrived.put_nowait):
            arrived.put_nowait(job)
    try:
        while waiting:
            job = await _next(session, arrived, waiting, end)
            if waiting.pop(job.id, None) is not None:
                yield job
    finally:
        for job in waiting.values():
            session.inbox.no_longer(job, arrived.put_nowait)


async def _next(
    session: AsyncSession,
    arrived: asyncio.Queue[AsyncJob],
    waiting: dict[str, AsyncJob],
    end: float,
) -> AsyncJob:
    loop, pause = asyncio.get_running_loop(), 0.01
    while True:
        try:
            async with asyncio.timeout(max(0.0, min(pause, end - loop.time()))):
                return await arrived.get()
        except TimeoutError:
            looked_at = turn(waiting)
            outage = await session.look(looked_at)
            pause = min(pause * 2, PUSHED_POLL_S)
        if loop.time() >= end and arrived.empty():
            raise not_in_time(len(waiting), outage) from outage


async def mapped(
    begin: Callable[[Any], Awaitable[AsyncSubmission]],
    rows: Iterable[Any],
    *,
    progress: str | None,
    return_errors: bool,
) -> AsyncIterator[Any]:
    """Yields outputs in the order of the rows; see ``Client.map``."""
    flight, patience = deque[AsyncJob](), Patience()
    with bar(progress, rows) as advance:

        async def take() -> Any:
            out = await _output(flight.popleft(), advance, return_errors=return_errors)
            patience.progress()
            return out

        for chunk in chunks(rows):
            while len(flight) + len(chunk) > MAP_WINDOW:
                yield await take()
            part = _Part(begin, chunk)
            while not part.done:
                obstacle = await part.go(flight, patience)
                if isinstance(obstacle, StoreUnavailable) and obstacle.retryable and flight:
                    yield await take()
                elif obstacle is not None:
                    await asyncio.sleep(patience.pause(obstacle))
                while flight and flight[0].outcome is not None:
                    yield await take()
        while flight:
            yield await take()


class _Part:
    """A chunk of rows on its way, in as many tries as it takes."""

    def __init__(self, begin: Callable[[Any], Awaitable[AsyncSubmission]], rows: Any) -> None:
        self._begin, self._rows = begin, rows
        self._submission: AsyncSubmission | None = None

    @property
    def done(self) -> bool:
        return self._submission is not None and not self._submission.left

    async def go(
        self, flight: deque[AsyncJob], patience: Patience
    ) -> LaneFull | StoreUnavailable | None:
        """Puts into ``flight`` what gets in; returns what hindered the rest."""
        try:
            self._submission = self._submission or await self._begin(self._rows)
            await self._submission.go()
            obstacle = None
        except (LaneFull, StoreUnavailable) as error:
            obstacle = error
        jobs = self._submission.ready() if self._submission else []
        flight.extend(jobs)
        if jobs:
            patience.progress()
        return obstacle


async def _output(job: AsyncJob, advance: Callable[[], None], *, return_errors: bool) -> Any:
    try:
        return await job.result()
    except JobError as error:
        if return_errors:
            return error
        raise
    finally:
        advance()
