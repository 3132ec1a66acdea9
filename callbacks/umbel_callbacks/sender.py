"""The sender: takes callbacks that are due, posts many at once, and writes what became of each."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from umbel_batching.lanes import new_uid
from umbel_batching.outbox import OutboxCalls, Report
from umbel_batching.scripts import AsyncRunner
from umbel_callbacks.letters import Letter, Letters
from umbel_callbacks.posting import Poster
from umbel_callbacks.reports import Reports
from umbel_callbacks.retries import Retries
from umbel_callbacks.signing import Secrets, sign
from umbel_config.callback_settings import CallbackSettings

log = logging.getLogger("umbel.sender")

#: Most POSTs taken in one lease, so that several senders share what is due.
_AT_ONCE = 64
#: Seconds that a sender without work waits for more before its turn ends, and between two looks.
_LINGER_S, _FIRST_LOOK_S, _LONGEST_LOOK_S = 0.5, 0.004, 0.05
#: Milliseconds for which a sender counts as there after each look; it looks far more often.
_THERE_MS = 5000
#: A lease outlives the attempt, the reading of its answer, and the writing of what came of it.
_LEASE_MARGIN_S = 10.0


class Flag(Protocol):
    """What a turn asks now and then."""

    def is_set(self) -> bool:
        """Whether it must end."""


@dataclass(slots=True)
class Tally:
    """What a turn of a sender did; shown by Flower as the task's result."""

    posts: int = 0
    delivered: int = 0
    again: int = 0
    dead: int = 0

    def note(self, report: Report) -> None:
        """Counts one POST; what is delivered or given up is counted in callbacks."""
        self.posts += 1
        callbacks = len(report.post.entries)
        if report.verdict == "delivered":
            self.delivered += callbacks
        elif report.verdict == "again":
            self.again += callbacks
        elif report.verdict == "dead":
            self.dead += callbacks


@dataclass(slots=True)
class Sender:
    """Sends the callbacks of one namespace; belongs to one event loop.

    Attributes:
        runner: runs scripts.
        calls: of the outbox.
        letters: reads what a POST holds.
        poster: makes the POSTs.
        retries: judges their answers.
        secrets: sign them.
        reports: writes what became of them.
        settings: how many at the same time, and how long they may take.
    """

    runner: AsyncRunner
    calls: OutboxCalls
    letters: Letters
    poster: Poster
    retries: Retries
    secrets: Secrets
    reports: Reports
    settings: CallbackSettings
    _under_way: set[asyncio.Task[None]] = field(default_factory=set)
    _freed: asyncio.Event = field(default_factory=asyncio.Event)
    _warned: Counter[str] = field(default_factory=Counter)

    async def turn(self, token: str, budget_s: float, stopping: Flag) -> Tally:
        """Sends what is due until nothing has been for a while, or the budget is spent.

        POSTs that are under way then go on, unless the sender stops: they are waited for.

        Args:
            token: name of this turn; no other sender is called while it lasts.
            budget_s: seconds.
            stopping: ends the turn.
        """
        tally, end, idle_since, look_s = Tally(), time.monotonic() + budget_s, None, _FIRST_LOOK_S
        try:
            while time.monotonic() < end and not stopping.is_set():
                if await self._look(token, tally):
                    idle_since, look_s = None, _FIRST_LOOK_S
                    continue
                idle_since = idle_since or time.monotonic()
                if time.monotonic() - idle_since > _LINGER_S:
                    break
                await asyncio.sleep(look_s)
                look_s = min(look_s * 2, _LONGEST_LOOK_S)
            if stopping.is_set() and self._under_way:
                await asyncio.wait(self._under_way)
            await self.reports.written()
        finally:
            await self.runner.run(self.calls.rest(token))
        return tally

    async def aclose(self) -> None:
        """Gives up what is under way, which other senders take over when its lease ends."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self.reports.written()
        await self.poster.aclose()

    async def _look(self, token: str, tally: Tally) -> bool:
        """Takes what is due, as far as there is room; returns whether there was anything."""
        await self._room()
        call = self.calls.lease(
            token,
            lease_ms=round((self.settings.callback_timeout_s + _LEASE_MARGIN_S) * 1000),
            posts=min(self.settings.callback_concurrency - len(self._under_way), _AT_ONCE),
            parcel=new_uid(),
            batch_size=self.settings.callback_batch_size,
            there_ms=_THERE_MS,
        )
        leased = await self.runner.run(call)
        if not leased.posts:
            return False
        for letter in await self.letters.read(leased.posts):
            task = asyncio.create_task(self._deliver(letter, tally))
            self._under_way.add(task)
            task.add_done_callback(self._done)
        return True

    async def _room(self) -> None:
        while len(self._under_way) >= self.settings.callback_concurrency:
            self._freed.clear()
            await self._freed.wait()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._freed.set()
        if not task.cancelled() and (error := task.exception()):
            # Its lease ends by itself, and another attempt is made.
            log.error("callback not sent: %s", type(error).__name__, exc_info=error)

    async def _deliver(self, letter: Letter, tally: Tally) -> None:
        report = await self._sent(letter)
        tally.note(report)
        self._tell(report)
        self.reports.add(report)

    async def _sent(self, letter: Letter) -> Report:
        if letter.url is None:
            return Report(letter.post, "gone", "unknown")
        now_s = time.time()
        keys = self.secrets.for_host(letter.host)
        if keys and not letter.damage:
            headers = sign(keys, letter.post.message_id, now_s, letter.body)
            answer = await self.poster.post(letter.url, headers, letter.body)
        else:
            answer = letter.unsent()
        return self.retries.report(letter.post, answer, letter.delivery, round(now_s * 1000))

    def _tell(self, report: Report) -> None:
        """One line for each callback given up; the first trouble with a receiver is told too."""
        receiver = report.post.receiver
        if report.verdict == "dead":
            log.warning(
                "%s: callback %s given up (%s)",
                *(receiver, report.post.message_id, _cause(report)),
            )
        elif report.verdict == "again" and not self._warned[receiver]:
            log.warning(
                "%s: callback not delivered (%s); it is tried again", receiver, _cause(report)
            )
        if report.verdict == "delivered":
            self._warned.pop(receiver, None)
        else:
            self._warned[receiver] += 1


def _cause(report: Report) -> str:
    status = f"status {report.status}" if report.status else ""
    return ", ".join(filter(None, (status, report.note)))
