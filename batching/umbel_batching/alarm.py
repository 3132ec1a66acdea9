"""The alarm of a flusher: jobs wait, and no live worker serves the queue of their lane."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

log = logging.getLogger("umbel.flusher")

#: Seconds after which it is said again.
AGAIN_S: Final = 60.0


class Alarm:
    """Says which lanes wait for a worker that is not there: at once, then once a minute.

    Args:
        waiting: counts the jobs that wait in a lane, given its slot; asked only where no worker is.
        clock: seconds that only ever grow.
    """

    def __init__(
        self, waiting: Callable[[str], int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._waiting, self._clock = waiting, clock
        self._said: dict[str, float] = {}

    def look(self, slot: str, lane: str, queue: str, workers: int) -> None:
        """Notes what is known of a lane, and says so if that is news.

        Args:
            slot: the lane.
            lane: its name.
            queue: the Celery queue whose workers serve it.
            workers: batches that its live workers can run side by side; 0: there is none.
        """
        if workers:
            if self._said.pop(slot, None) is not None:
                log.info("lane %s: a worker serves queue %s again", lane, queue)
            return
        said = self._said.get(slot)
        if said is not None and self._clock() < said + AGAIN_S:
            return
        count = self._waiting(slot)
        if not count:  # all expired or were cancelled; the next job finds the alarm ready
            self._said.pop(slot, None)
            return
        self._said[slot] = self._clock()
        log.error(
            "lane %s: %s, and no worker serves queue %s. Start one: umbel worker --queues %s",
            *(lane, "1 job waits" if count == 1 else f"{count:,} jobs wait", queue, queue),
        )
