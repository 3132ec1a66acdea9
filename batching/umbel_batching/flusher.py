"""The flusher: finds lanes that are full or have waited long enough, and wakes workers for them."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import redis
from redis.exceptions import RedisError, ResponseError

from umbel_batching.alarm import Alarm
from umbel_batching.bell import Bell
from umbel_batching.calls import Calls
from umbel_batching.census import lane_names, worker_slots
from umbel_batching.keys import lane_keys, shared_keys
from umbel_batching.lanes import is_shadow, new_uid
from umbel_batching.outbox import OUTBOX, OutboxCalls
from umbel_batching.retention import Retention
from umbel_batching.scripts import Runner
from umbel_batching.summoner import Summoner
from umbel_batching.values import Flush

log = logging.getLogger("umbel.flusher")

#: Longest sleep of a flusher; bounds the delay when the one that was woken dies at once.
MAX_BLOCK_S = 1.0
#: Lanes looked at in one turn, drains sent for one lane in one turn, batches reaped in one call.
_LANES, _TOKENS, _BATCHES = 64, 32, 32
#: Overdue jobs ended in one call.
_OVERDUE = 1000
#: Milliseconds after which a hint that no worker answered is sent again.
PATIENCE_MS = 2_000
#: Seconds between two looks at all lanes, for those that fell off the list.
_SWEEP_S = 5.0
_WORKERS_FRESH_S = 1.0
_RECONNECT_S = 0.5


@dataclass(frozen=True, slots=True)
class Drain:
    """A wake-up for a worker: a hint that ``lane`` has work. It carries no data.

    Attributes:
        lane: name of the lane.
        queue: the Celery queue whose workers serve it.
        token: name of the drain; a worker claims in its name.
    """

    lane: str
    queue: str
    token: str


def sweep(runner: Runner, calls: Calls, *, now: bool) -> int:
    """Puts every lane with work on the flushers' list, and the outbox; needs no flusher itself.

    Args:
        runner: runs scripts.
        calls: of the namespace.
        now: have all of them looked at at once, as after the start of a worker: wake-ups that were
            sent while there was none are forgotten, and sent again.

    Returns:
        Lanes with work.
    """
    slots = lane_names(runner.client, calls.namespace)
    runner.run(OutboxCalls(calls.namespace).rouse(now=now))
    return [runner.run(calls.rearm(slot, now=now)) for slot in slots].count(True)


class Flusher:
    """Watches all lanes of a namespace and hands wake-ups to ``dispatch``.

    It holds no state that matters: run as many as you like, anywhere, and stop them at any time.
    Every decision is one script, so two flushers never send twice for the same jobs.

    Args:
        client: a Redis client made for blocking reads, for this flusher alone.
        namespace: prefix of every key.
        dispatch: brings a wake-up to a worker; may raise, the wake-up is then sent again later.
        max_attempts: times a job may be lost with its worker before it fails.
        keep: how long what is kept of such a job stays.
        summoner: calls senders for the outbox; without one its callbacks wait.
        on_lost: told the name of a lane of copies when a worker was lost with a batch of them.
    """

    def __init__(
        self,
        client: redis.Redis,
        namespace: str,
        dispatch: Callable[[Drain], None],
        *,
        max_attempts: int = 3,
        keep: Retention | None = None,
        summoner: Summoner | None = None,
        on_lost: Callable[[str], None] | None = None,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._dispatch = dispatch
        self._max_attempts = max_attempts
        self._summoner, self._on_lost = summoner, on_lost
        self._calls = Calls(namespace, keep)
        self._copies = Calls(namespace, (keep or Retention()).of_copies)
        self._runner = Runner(client)
        self._bell = Bell(client, shared_keys(namespace).signal)
        self._stop = threading.Event()
        self._next_sweep = 0.0
        self._lanes: dict[str, tuple[str, str]] = {}
        self._slots: dict[str, tuple[float, int]] = {}
        self._alarm = Alarm(self._waiting)

    def run(self) -> None:
        """Works until ``stop`` is called; survives a Redis that goes away and comes back."""
        while not self._stop.is_set():
            try:
                self.turn()
            except RedisError as error:
                log.warning(
                    "flusher: Redis does not answer (%s); trying again", type(error).__name__
                )
                self._stop.wait(_RECONNECT_S * random.uniform(0.5, 1.5))  # noqa: S311  (jitter)
        self._bell.join()
        self._client.close()

    def stop(self) -> None:
        """Ends ``run`` soon; to be called from another thread than the one that runs it."""
        self._stop.set()
        self._bell.stop()

    def turn(self) -> int:
        """Looks at the lanes that are due, or sleeps until the next one is.

        Returns:
            Drains handed to ``dispatch``, and senders called.
        """
        self._sweep_if_due()
        due = self._runner.run(self._calls.due(_LANES))
        if not due.slots:
            wait_s = (due.next_ms - due.now_ms) / 1000 if due.next_ms else MAX_BLOCK_S
            self._bell.wait(max(0.0, min(wait_s, MAX_BLOCK_S)))
            return 0
        return sum(self._flush_alone(slot, due.now_ms) for slot in due.slots)

    def sweep(self, *, now: bool = False) -> int:
        """Puts every lane with work back on the list; a lane can only fall off if Redis lost data.

        Args:
            now: have all of them looked at at once, as after the start of a worker.

        Returns:
            Lanes with work.
        """
        return sweep(self._runner, self._calls, now=now)

    def _sweep_if_due(self) -> None:
        if time.monotonic() >= self._next_sweep:
            self._next_sweep = time.monotonic() + _SWEEP_S * random.uniform(0.8, 1.2)  # noqa: S311
            self.sweep()

    def _flush_alone(self, slot: str, now_ms: int) -> int:
        """Flushes one lane; a lane that cannot be flushed does not hold up the others."""
        try:
            if slot == OUTBOX:
                return self._look_at_outbox(now_ms)
            return self._flush(slot, now_ms)
        except ResponseError as error:
            log.warning("lane %s: not flushed (%s); trying again later", slot, error)
            wake = shared_keys(self._namespace).wake
            self._client.zadd(wake, {slot: now_ms + PATIENCE_MS})
            return 0

    def _look_at_outbox(self, now_ms: int) -> int:
        if self._summoner is None:  # another flusher, with one, finds it when that time has come
            self._client.zadd(shared_keys(self._namespace).wake, {OUTBOX: now_ms + PATIENCE_MS})
            return 0
        return self._summoner.turn(self._runner, now_ms, PATIENCE_MS)

    def _flush(self, slot: str, now_ms: int) -> int:
        tokens = [new_uid() for _ in range(_TOKENS)]
        flush = self._ask(slot, now_ms, tokens)
        if flush.expired or flush.overdue:
            self._tidy(slot, flush)
            flush = self._ask(slot, now_ms, tokens)
        for token in tokens[: flush.sent]:
            self._send(Drain(flush.lane, flush.queue, token))
        for idle in flush.in_the_way:
            self._runner.run(self._calls.stir(idle))
        if flush.queue:
            self._alarm.look(slot, flush.lane, flush.queue, self._workers(flush.queue, now_ms))
        return flush.sent

    def _ask(self, slot: str, now_ms: int, tokens: list[str]) -> Flush:
        """Runs the flush script with the slots of the lane's queue, which it tells us itself."""
        known = self._lanes.get(slot, ("", ""))
        slots = self._slots_of(*known, now_ms)
        call = self._calls.flush(slot, slots=slots, patience_ms=PATIENCE_MS, tokens=tokens)
        flush = self._runner.run(call)
        told = self._lanes[slot] = (flush.lane, flush.queue)
        return flush if told == known else self._ask(slot, now_ms, tokens)

    def _slots_of(self, lane: str, queue: str, now_ms: int) -> int:
        """Batches of a lane that may run side by side; 1 while its queue is not known.

        Copies get one slot of all workers together: whatever a shadow does to those that run it,
        it does it to one of them.
        """
        return 1 if not queue or is_shadow(lane) else max(1, self._workers(queue, now_ms))

    def _workers(self, queue: str, now_ms: int) -> int:
        """The same, as last read; 0 where no worker is alive."""
        read_at, slots = self._slots.get(queue, (0.0, 0))
        if not read_at or time.monotonic() - read_at > _WORKERS_FRESH_S:
            slots = worker_slots(self._client, self._namespace, queue, now_ms)
            self._slots[queue] = (time.monotonic(), slots)
        return slots

    def _waiting(self, slot: str) -> int:
        return int(self._client.zcard(lane_keys(self._namespace, slot).waiting))

    def _tidy(self, slot: str, flush: Flush) -> None:
        """Ends what is overdue, and takes back what silent workers hold."""
        if flush.overdue:
            self._runner.run(self._calls.expire(slot, _OVERDUE))
        if flush.expired:
            self._reap(slot, flush.lane)

    def _reap(self, slot: str, lane: str) -> None:
        copies = is_shadow(lane)
        calls, attempts = (self._copies, 1) if copies else (self._calls, self._max_attempts)
        reaped = self._runner.run(calls.reap(slot, limit=_BATCHES, max_attempts=attempts))
        if reaped.batches:
            log.warning(
                "lane %s: took back %d batches of silent workers; %d jobs wait again, %d failed",
                *(lane, reaped.batches, reaped.again, reaped.failed),
            )
        if reaped.batches and copies and self._on_lost is not None:
            self._on_lost(lane)

    def _send(self, drain: Drain) -> None:
        try:
            self._dispatch(drain)
        except Exception as error:  # noqa: BLE001  (whatever the broker raises, the hint is sent again)
            log.warning("lane %s: wake-up not sent (%s); trying again", drain.lane, error)
