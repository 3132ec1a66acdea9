"""Many jobs at once under asyncio: results as they come, or in order, some in flight."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from umbel._aio_job import AsyncJob
from umbel._aio_session import AsyncSession
from umbel._job import PUSHED_POLL_S
from umbel._stream import MAP_WINDOW, bar, chunks, not_in_time, turn
from umbel_config.errors import JobError, LaneFull


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
            await session.poll(looked_at)
            pause = min(pause * 2, PUSHED_POLL_S)
        if loop.time() >= end and arrived.empty():
            raise not_in_time(len(waiting))


async def mapped(
    submit: Callable[[Any], Awaitable[list[AsyncJob]]],
    rows: Iterable[Any],
    *,
    progress: str | None,
    return_errors: bool,
) -> AsyncIterator[Any]:
    """Yields outputs in the order of the rows; see ``Client.map``."""
    flight: deque[AsyncJob] = deque()
    with bar(progress, rows) as advance:
        for chunk in chunks(rows):
            while len(flight) + len(chunk) > MAP_WINDOW:
                yield await _output(flight.popleft(), advance, return_errors=return_errors)
            flight.extend(await _patiently(submit, chunk))
            while flight and flight[0].outcome is not None:
                yield await _output(flight.popleft(), advance, return_errors=return_errors)
        while flight:
            yield await _output(flight.popleft(), advance, return_errors=return_errors)


async def _patiently(
    submit: Callable[[Any], Awaitable[list[AsyncJob]]], chunk: Any
) -> list[AsyncJob]:
    """Submits a chunk, waiting for room when the lane is full."""
    jobs: list[AsyncJob] = []
    while True:
        try:
            return jobs + await submit(chunk)
        except LaneFull as error:
            jobs.extend(error.jobs)
            chunk = chunk[error.accepted :]
            await asyncio.sleep(error.retry_after)


async def _output(job: AsyncJob, advance: Callable[[], None], *, return_errors: bool) -> Any:
    try:
        return await job.result()
    except JobError as error:
        if return_errors:
            return error
        raise
    finally:
        advance()
