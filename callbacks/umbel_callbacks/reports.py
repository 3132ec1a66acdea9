"""Writing what became of POSTs: as many as have gathered, in one round trip."""

from __future__ import annotations

import asyncio
import logging
import time

from redis.exceptions import RedisError, ResponseError

from umbel_batching.outbox import OutboxCalls, Report
from umbel_batching.scripts import AsyncRunner

log = logging.getLogger("umbel.sender")
#: Most reports in one round trip.
_MOST = 256
#: Seconds between two tries while Redis does not answer, and after which a report is given up: its
#: lease has ended by then, so that the callback is sent once more.
_PAUSE_S, _GIVE_UP_S = 0.5, 60.0


class Reports:
    """Reports on their way to Redis; while one round trip is made, the next ones gather.

    Args:
        runner: runs scripts.
        calls: of the outbox.
    """

    def __init__(self, runner: AsyncRunner, calls: OutboxCalls) -> None:
        self._runner, self._calls = runner, calls
        self._waiting: list[Report] = []
        self._task: asyncio.Task[None] | None = None

    def add(self, report: Report) -> None:
        """Has a report written soon."""
        self._waiting.append(report)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write_all())

    async def written(self) -> None:
        """Waits until all reports that were added are written."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    async def _write_all(self) -> None:
        give_up, most = time.monotonic() + _GIVE_UP_S, _MOST
        while self._waiting:
            some = self._waiting[:most]
            try:
                await self._write(some)
            except ResponseError as error:
                if len(some) > 1:  # then one by one: the script fails on one of them
                    most = 1
                    continue
                _say_lost(some[0], error)
            except RedisError as error:
                if time.monotonic() < give_up:
                    await asyncio.sleep(_PAUSE_S)
                    continue
                log.warning(
                    "Redis does not answer (%s): %d callbacks may be sent once more",
                    *(type(error).__name__, len(self._waiting)),
                )
            del self._waiting[: len(some)]
            give_up = time.monotonic() + _GIVE_UP_S

    async def _write(self, reports: list[Report]) -> None:
        answers = await self._runner.run_together([self._calls.report(each) for each in reports])
        loose = [entry for gave_way in answers for entry in gave_way or ()]
        if loose:
            await self._runner.run(self._calls.loosen(loose))


def _say_lost(report: Report, error: ResponseError) -> None:
    """What became of one callback cannot be written; its lease ends by itself."""
    log.error(
        "%s: what became of callback %s cannot be written: %s",
        *(report.post.receiver, report.post.message_id, error),
    )
