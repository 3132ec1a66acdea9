"""The sender: takes callbacks that are due, posts many at once, and writes what became of each."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from umbel_batching.lanes import new_uid
from umbel_batching.outbox import Leased, OutboxCalls, Post, Report
from umbel_batching.scripts import AsyncRunner, Call
from umbel_callbacks.letters import Draft, Letter, Letters
from umbel_callbacks.posting import Poster
from umbel_callbacks.reports import Reports
from umbel_callbacks.retries import TOO_LATE, Retries
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
#: Bytes of a thin event, and some more.
_THIN_BYTES = 512
#: From which part of the places in use on how many POSTs may be under way to one receiver.
_SCARCE = ((0.9, 1), (0.75, 2), (0.5, 4))
#: Receivers whose trouble was told; then it is told anew.
_REMEMBERED = 10_000


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
    _warned: set[str] = field(default_factory=set)

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
                if await self._look(token, tally, stopping):
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
        """Waits for what is under way, no longer than an attempt may take, and closes all."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=self.settings.callback_timeout_s)
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self.reports.written()
        await self.poster.aclose()

    async def _look(self, token: str, tally: Tally, stopping: Flag) -> bool:
        """Takes what is due, as far as there is room; returns whether it is worth another look."""
        await self._room(token)
        if stopping.is_set():
            return False
        room = self.settings.callback_concurrency - len(self._under_way)
        moment = time.monotonic()
        leased = await self.runner.run(self._lease(token, min(room, _AT_ONCE)))
        for draft in await self._drafts(leased.posts):
            task = asyncio.create_task(self._deliver(draft, tally, moment))
            self._under_way.add(task)
            task.add_done_callback(self._done)
        return bool(leased.posts) or leased.next_ms == 0

    def _lease(self, token: str, posts: int) -> Call[Leased]:
        settings = self.settings
        return self.calls.lease(
            token,
            lease_ms=self._lease_ms,
            posts=posts,
            parcel=new_uid(),
            batch_size=min(
                settings.callback_batch_size, max(1, settings.callback_max_bytes // _THIN_BYTES)
            ),
            there_ms=_THERE_MS,
            to_one=self._most_to_one(),
        )

    @property
    def _lease_ms(self) -> int:
        return round((self.settings.callback_timeout_s + _LEASE_MARGIN_S) * 1000)

    def _most_to_one(self) -> int:
        """POSTs under way to one receiver, at most: fewer as places run short.

        Otherwise a few slow receivers would take all places, and the others wait.
        """
        used = len(self._under_way) / self.settings.callback_concurrency
        scarce = next((most for part, most in _SCARCE if used >= part), None)
        most = self.settings.callback_host_concurrency
        return most if scarce is None else min(scarce, most)

    async def _drafts(self, posts: Sequence[Post]) -> list[Draft]:
        try:
            return await self.letters.read(posts)
        except (RedisConnectionError, RedisTimeoutError):
            raise
        except Exception:
            # Each is read by itself then, so that one that cannot be read holds up no other.
            log.exception("callbacks are read one by one")
            return [Draft(post) for post in posts]

    async def _room(self, token: str) -> None:
        """Waits for a free place, and says now and then that the sender is still there."""
        while len(self._under_way) >= self.settings.callback_concurrency:
            self._freed.clear()
            try:
                async with asyncio.timeout(_THERE_MS / 2000):
                    await self._freed.wait()
            except TimeoutError:
                await self.runner.run(self._lease(token, 0))

    def _done(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._freed.set()
        if not task.cancelled() and (error := task.exception()):
            # Its lease ends by itself, and another attempt is made.
            log.error("callback not sent: %s", type(error).__name__, exc_info=error)

    async def _deliver(self, draft: Draft, tally: Tally, moment: float) -> None:
        """Sends one POST.

        Args:
            draft: what it holds.
            tally: counts it.
            moment: ``time.monotonic()`` at its lease.
        """
        letter = await self.letters.write(draft)
        # By the clock of Redis, which leases, due times and ends of jobs go by.
        now_ms = int(draft.post.lease_ends) - self._lease_ms
        now_ms += round((time.monotonic() - moment) * 1000)
        report = await self._sent(letter, now_ms)
        tally.note(report)
        self._tell(report)
        self.reports.add(report)

    async def _sent(self, letter: Letter, now_ms: int) -> Report:
        if letter.url is None:
            return Report(letter.post, "gone", "unknown")
        keys = self.secrets.for_host(letter.host)
        if not letter.damage and self.retries.over(letter.delivery, now_ms):
            answer = TOO_LATE
        elif keys and not letter.damage:
            headers = sign(keys, letter.message_id, time.time(), letter.body)
            answer = await self.poster.post(letter.url, headers, letter.body)
        else:
            answer = letter.unsent()
        return self.retries.report(letter.post, answer, letter.delivery, now_ms)

    def _tell(self, report: Report) -> None:
        """One line for each callback given up; the first trouble with a receiver is told too."""
        receiver = report.post.receiver
        if report.verdict == "dead":
            log.warning(
                "%s: callback %s given up (%s)",
                *(receiver, report.post.message_id, _cause(report)),
            )
        elif report.verdict == "again" and receiver not in self._warned:
            log.warning(
                "%s: callback not delivered (%s); it is tried again", receiver, _cause(report)
            )
        if report.verdict == "delivered":
            self._warned.discard(receiver)
        elif report.verdict != "gone":
            if len(self._warned) >= _REMEMBERED:
                self._warned.clear()
            self._warned.add(receiver)


def _cause(report: Report) -> str:
    status = f"status {report.status}" if report.status else ""
    return ", ".join(filter(None, (status, report.note)))
