"""What those who wait bear with: a store that is away, a lane or a store that is full."""

from __future__ import annotations

import logging
import threading
import time

from umbel_config.errors import LaneFull, StoreFull, StoreUnavailable

log = logging.getLogger("umbel.client")
#: Seconds between two tries of ``map`` to submit while the store takes nothing, growing.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
#: Seconds after which ``map`` gives up when the store takes nothing and no result can come.
LONGEST_S = 60.0


class Outage:
    """Whether the store was away when one client last looked for outcomes; says so once."""

    def __init__(self) -> None:
        self._told = False
        self._lock = threading.Lock()

    def met(self, error: StoreUnavailable) -> StoreUnavailable:
        """Notes an outage that may pass, and returns it.

        Raises:
            StoreUnavailable: the error itself, if waiting does not help.
        """
        if not error.retryable:
            raise error
        if self._turned(told=True):
            log.warning("Redis is away; waiting for results goes on. %s", error)
        return error

    def over(self) -> None:
        """Notes that the store answered."""
        if self._told and self._turned(told=False):
            log.info("Redis is back")

    def _turned(self, *, told: bool) -> bool:
        """Whether this call is the one that turns it; many threads may wait at the same time."""
        with self._lock:
            before, self._told = self._told, told
        return before is not told


class Patience:
    """How ``map`` bears with what keeps it from submitting."""

    def __init__(self) -> None:
        self._started = False
        self._pause = _FIRST_PAUSE_S
        self._since: float | None = None

    def progress(self) -> None:
        """Notes that jobs were accepted, or that a result came."""
        self._started = True
        self._pause, self._since = _FIRST_PAUSE_S, None

    def pause(self, obstacle: LaneFull | StoreUnavailable) -> float:
        """Seconds to wait before the next try.

        Args:
            obstacle: why nothing was accepted.

        Raises:
            StoreUnavailable: the obstacle itself: it does not pass by waiting, has lasted for
                ``LONGEST_S`` without any progress, or the store was away from the beginning.
        """
        if isinstance(obstacle, LaneFull):
            return obstacle.retry_after
        now = time.monotonic()
        self._since = self._since or now
        hopeless = not obstacle.retryable or now - self._since > LONGEST_S
        if hopeless or not (self._started or isinstance(obstacle, StoreFull)):
            raise obstacle
        log.warning("map waits %.1f s before it submits more. %s", self._pause, obstacle)
        pause, self._pause = self._pause, min(self._pause * 2, _LONGEST_PAUSE_S)
        return pause
