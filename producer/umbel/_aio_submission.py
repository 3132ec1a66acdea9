"""Jobs on their way into a lane under asyncio; see ``_submission``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from umbel._aio_job import AsyncJob
from umbel._intake import Group, Intake
from umbel._submission import Bundle, bundled, portions
from umbel_batching.values import NewJob
from umbel_config.errors import IdempotencyConflict, LaneFull, StoreUnavailable

if TYPE_CHECKING:  # a session knows nothing of submissions
    from umbel._aio_session import AsyncSession


class AsyncSubmission:
    """The asyncio twin of ``Submission``.

    Args:
        session: of the client.
        groups: the jobs by lane.
    """

    def __init__(self, session: AsyncSession, groups: Sequence[Group]) -> None:
        self._session = session
        self._intake = Intake[AsyncJob](groups)

    @property
    def left(self) -> int:
        """How many jobs have not been accepted yet."""
        return self._intake.left

    def ready(self) -> list[AsyncJob]:
        """The jobs that are in, up to the first row that is not; each is told once."""
        return self._intake.ready()

    async def go(self) -> list[AsyncJob]:
        """Submits what is left, and returns its jobs; see ``Submission.go``."""
        full: LaneFull | None = None
        try:
            for group in self._intake.open():
                try:
                    await self._submit_all(group)
                except LaneFull as error:
                    full = full or error
            if full is not None:
                raise full
        except (IdempotencyConflict, LaneFull, StoreUnavailable) as error:
            self._intake.tell(error)
            raise
        return self._intake.accepted()

    async def _submit_all(self, group: Group) -> None:
        for new in bundled(group.waiting):
            try:
                await self._submit(group, new)
            except LaneFull:
                for size in portions(len(new)):
                    with suppress(LaneFull):
                        await self._submit(group, group.waiting[:size])
                raise

    async def _submit(self, group: Group, new: Sequence[NewJob]) -> None:
        slot = group.target.lane.slot
        make = partial(AsyncJob, self._session, store=self._session.store)
        bundle = Bundle(self._session.inbox, make, slot, new)
        try:
            jobs = bundle.accepted(await self._session.submit(group.target, new))
        except BaseException:
            bundle.refused()
            raise
        self._intake.note(group, jobs)
