"""Jobs on their way into a lane under asyncio; see ``_submission``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from umbel._aio_job import AsyncJob
from umbel._prepare import Target
from umbel._submission import Bundle, bundled, portions
from umbel_batching.values import NewJob
from umbel_config.errors import IdempotencyConflict, LaneFull, StoreUnavailable

if TYPE_CHECKING:  # a session knows nothing of submissions
    from umbel._aio_session import AsyncSession


class AsyncSubmission:
    """The asyncio twin of ``Submission``.

    Args:
        session: of the client.
        target: where the jobs go.
        new: the jobs.
    """

    def __init__(self, session: AsyncSession, target: Target, new: Sequence[NewJob]) -> None:
        self._session, self._target, self._new = session, target, new
        self._place = 0
        self._jobs: list[AsyncJob] = []

    @property
    def left(self) -> int:
        """How many jobs have not been accepted yet."""
        return len(self._new) - self._place

    async def go(self) -> list[AsyncJob]:
        """Submits what is left, and returns its jobs; see ``Submission.go``."""
        self._jobs = []
        try:
            await self._submit_all()
        except (IdempotencyConflict, LaneFull, StoreUnavailable) as error:
            error.accepted, error.jobs = len(self._jobs), tuple(self._jobs)
            raise
        return self._jobs

    async def _submit_all(self) -> None:
        for new in bundled(self._new[self._place :]):
            try:
                await self._submit(new)
            except LaneFull:
                for size in portions(len(new)):
                    with suppress(LaneFull):
                        await self._submit(self._new[self._place : self._place + size])
                raise

    async def _submit(self, new: Sequence[NewJob]) -> None:
        slot = self._target.lane.slot
        bundle = Bundle(self._session.inbox, partial(AsyncJob, self._session), slot, new)
        try:
            jobs = bundle.accepted(await self._session.submit(self._target, new))
        except BaseException:
            bundle.refused()
            raise
        self._jobs += jobs
        self._place += len(new)
