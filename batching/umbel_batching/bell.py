"""The bell of a flusher: rung by a script when a lane became due sooner than was known."""

from __future__ import annotations

import logging
import threading

import redis
from redis.exceptions import RedisError

log = logging.getLogger("umbel.flusher")
#: Longest blocking read, in seconds; an idle bell costs one command in that time.
_BLOCK_S = 1.0
_RECONNECT_S = 0.5


class Bell:
    """Waits for a ring in a thread, so that a flusher can wait for a ring or a moment in time.

    The blocking read alone would not do: Redis ends it up to 100 ms late, because it looks at the
    timeouts of blocked clients only as often as its timer runs (``hz``).

    Args:
        client: made for blocking reads; the thread uses one connection of it.
        key: the marker that scripts add; one bell takes it away.
    """

    def __init__(self, client: redis.Redis, key: str) -> None:
        self._client, self._key = client, key
        self._rung = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def wait(self, seconds: float) -> bool:
        """Waits for a ring, at most so long; returns whether there was one since the last wait."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="umbel-bell", daemon=True)
            self._thread.start()
        rung = self._rung.wait(seconds)
        self._rung.clear()
        return rung

    def stop(self) -> None:
        """Ends the thread after its read, and every wait at once; does not block."""
        self._stop.set()
        self._rung.set()

    def join(self) -> None:
        """Waits for the thread to end."""
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if self._client.bzpopmin(self._key, timeout=_BLOCK_S) is not None:
                    if self._stop.is_set():  # too late for this flusher: another must hear it
                        self._client.zadd(self._key, {"!": 0})
                    self._rung.set()
            except RedisError as error:
                log.info("bell: Redis does not answer (%s); trying again", type(error).__name__)
                self._stop.wait(_RECONNECT_S)
