"""A job as its caller sees it under asyncio: the same names as ``Job``, awaited."""

from __future__ import annotations

import asyncio
from typing import Any

from umbel._aio_session import AsyncSession
from umbel._job import PUSHED_POLL_S, next_pause
from umbel._outcome import timed_out, value_of
from umbel_batching.census import JobInfo
from umbel_batching.record import State
from umbel_batching.replies import Outcome


class AsyncJob:
    """One submitted job; made by ``AsyncClient.submit`` and ``AsyncClient.job``.

    Attributes:
        id: the job's id; any process can ask for the job by it.
    """

    __slots__ = ("__weakref__", "_pushed", "_session", "id", "on_done", "outcome")

    def __init__(self, session: AsyncSession, job_id: str, *, pushed: bool = False) -> None:
        self.id = job_id
        self.outcome: Outcome | None = None
        self.on_done: list[Any] | None = None
        self._session = session
        self._pushed = pushed

    def __repr__(self) -> str:
        state = self.outcome.state.value if self.outcome else "pending"
        return f"<AsyncJob {self.id} {state}>"

    async def state(self) -> State:
        """The job's state now; see ``Job.state``."""
        if self.outcome is not None:
            return self.outcome.state
        return await self._session.state(self.id)

    async def done(self) -> bool:
        """Whether the job is terminal."""
        return (await self.state()).terminal

    async def result(self, timeout: float | None = None) -> Any:  # noqa: ASYNC109  (DESIGN names it)
        """Waits for the job's output; see ``Job.result`` for what it returns and raises."""
        if not await self.wait(timeout) or self.outcome is None:
            raise timed_out(self.id, timeout or 0)
        return value_of(self.id, self.outcome)

    async def wait(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        """Waits until the job is terminal; returns whether it is.

        Args:
            timeout: seconds to wait; ``None`` waits for as long as it takes.
        """
        arrived = asyncio.Event()

        def wake(_: Any) -> None:
            arrived.set()

        if not self._session.inbox.when_done(self, wake):
            return True
        try:
            async with asyncio.timeout(timeout):
                await self._poll_until(arrived)
        except TimeoutError:
            if self.outcome is None:
                await self._session.poll([self])
            return self.outcome is not None
        finally:
            self._session.inbox.no_longer(self, wake)
        return True

    async def cancel(self) -> bool:
        """Cancels the job; true if it is cancelled now, false if it ended otherwise."""
        return await self._session.cancel(self.id)

    async def info(self) -> JobInfo:
        """The job's story; see ``Job.info``."""
        return await self._session.info(self.id)

    async def _poll_until(self, arrived: asyncio.Event) -> None:
        pause = PUSHED_POLL_S if self._pushed else 0.0
        while self.outcome is None:
            try:
                async with asyncio.timeout(pause):
                    await arrived.wait()
            except TimeoutError:
                await self._session.poll([self])
                pause = pause if self._pushed else next_pause(pause)
