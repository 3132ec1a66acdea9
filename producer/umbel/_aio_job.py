"""A job as its caller sees it under asyncio: the same names as ``Job``, awaited."""

from __future__ import annotations

import asyncio
from typing import Any

from umbel._aio_session import AsyncSession
from umbel._inbox import Inbox
from umbel._job import PUSHED_POLL_S, next_pause
from umbel._outcome import timed_out, value_of
from umbel_batching.census import JobInfo
from umbel_batching.record import State
from umbel_batching.replies import Outcome
from umbel_config.errors import StoreUnavailable


class AsyncJob:
    """One submitted job; made by ``AsyncClient.submit`` and ``AsyncClient.job``.

    Attributes:
        id: the job's id; any process can ask for the job by it.
    """

    __slots__ = ("__weakref__", "_session", "id", "inbox", "on_done", "outcome", "store")

    def __init__(
        self,
        session: AsyncSession,
        job_id: str,
        inbox: Inbox | None = None,
        *,
        store: str | None = None,
    ) -> None:
        self.id = job_id
        self.outcome: Outcome | None = None
        self.on_done: list[Any] | None = None
        self.inbox = inbox
        self.store = session.store if store is None else store
        self._session = session

    def __repr__(self) -> str:
        state = self.outcome.state.value if self.outcome else "pending"
        return f"<AsyncJob {self.id} {state}>"

    async def state(self) -> State:
        """The job's state now; see ``Job.state``."""
        if self.outcome is not None:
            return self.outcome.state
        return await self._session.state(self)

    async def done(self) -> bool:
        """Whether the job is terminal."""
        return (await self.state()).terminal

    async def result(self, timeout: float | None = None) -> Any:  # noqa: ASYNC109  (DESIGN names it)
        """Waits for the job's output; see ``Job.result`` for what it returns and raises."""
        while True:
            outage = await self._await(timeout)
            outcome = self.outcome
            if outcome is not None:
                return value_of(self.id, outcome)
            if timeout is not None:
                raise timed_out(self.id, timeout, outage) from outage

    async def wait(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        """Waits until the job is terminal, also while Redis is away; returns whether it is.

        Args:
            timeout: seconds to wait; ``None`` waits for as long as it takes.
        """
        await self._await(timeout)
        return self.outcome is not None

    async def cancel(self) -> bool:
        """Cancels the job; true if it is cancelled now, false if it ended otherwise."""
        return await self._session.cancel(self)

    async def forget(self) -> None:
        """Cancels the job if it has not ended, and deletes what is kept; see ``Job.forget``."""
        await self._session.forget(self)

    async def info(self) -> JobInfo:
        """The job's story; see ``Job.info``."""
        return await self._session.info(self)

    async def _await(self, timeout: float | None) -> StoreUnavailable | None:  # noqa: ASYNC109
        """Waits for the outcome; returns why the store could not be asked at the end, if so."""
        loop = asyncio.get_running_loop()
        end = float("inf") if timeout is None else loop.time() + timeout
        pushed = self.inbox is not None and self.store == self._session.store
        pause = PUSHED_POLL_S if pushed else 0.0
        while not await self._arrives(max(0.0, min(pause, end - loop.time()))):
            outage = await self._session.look([self])
            if self.outcome is None and loop.time() >= end:
                return outage
            pause = PUSHED_POLL_S if pushed or outage else next_pause(pause)
        return None

    async def _arrives(self, seconds: float) -> bool:
        """Waits for the outcome for that long; not by ``asyncio.timeout``, which costs far more."""
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()

        def wake(_: Any) -> None:
            if not woken.done():
                woken.set_result(None)

        if not self._session.inbox.when_done(self, wake):
            return True
        timer = loop.call_later(seconds, wake, None)
        try:
            await woken
        finally:
            timer.cancel()
            self._session.inbox.no_longer(self, wake)
        return self.outcome is not None
