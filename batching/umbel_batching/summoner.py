"""The part of a flusher that calls senders for the outbox, as it wakes workers for lanes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from umbel_batching.census import worker_slots
from umbel_batching.lanes import new_uid
from umbel_batching.outbox import OutboxCalls
from umbel_batching.scripts import Runner

log = logging.getLogger("umbel.flusher")
#: Most senders called in one turn.
_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Summons:
    """A hint for a sender that callbacks are due. It carries no data.

    Attributes:
        queue: the Celery queue of the senders.
        token: name of the sender's turn.
    """

    queue: str
    token: str


@dataclass(frozen=True, slots=True)
class Summoner:
    """Calls senders while callbacks are due; holds no state.

    Attributes:
        calls: of the namespace.
        queue: the Celery queue of the senders.
        send: brings one to a sender; may raise, it is then sent again later.
    """

    calls: OutboxCalls
    queue: str
    send: Callable[[Summons], None]

    def turn(self, runner: Runner, now_ms: int, patience_ms: int) -> int:
        """Calls as many senders as are needed and are there; returns how many.

        Args:
            runner: runs scripts.
            now_ms: the server's time.
            patience_ms: milliseconds after which an unanswered call counts as lost.
        """
        there = worker_slots(runner.client, self.calls.namespace, self.queue, now_ms)
        tokens = [new_uid() for _ in range(min(there, _TOKENS))]
        call = self.calls.summon(there=there, patience_ms=patience_ms, tokens=tokens)
        needed = runner.run(call)
        for token in tokens[:needed]:
            self._send(Summons(self.queue, token))
        return needed

    def _send(self, summons: Summons) -> None:
        try:
            self.send(summons)
        except Exception as error:  # noqa: BLE001  (whatever the broker raises, it is sent again)
            log.warning("outbox: sender not called (%s); trying again", error)
