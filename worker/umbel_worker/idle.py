"""Staying at an empty lane: the next job calls the drain, and needs no Celery message."""

from __future__ import annotations

import time

import redis

from umbel_batching.keys import lane_keys
from umbel_worker.shutdown import Flag

#: Longest blocking read, in seconds: a worker that shuts down notices after it. And the shortest:
#: Redis 6 takes less than a millisecond for no limit at all.
_SLICE_S, _LEAST_S = 0.2, 0.005


class Idle:
    """Where drains whose lanes are empty wait to be called, each thread at its own lane.

    Args:
        client: made for blocking reads; each thread that waits takes one connection of it.
        namespace: prefix of every key.
        stay_ms: milliseconds for which a drain stays; 0: it ends at once.
    """

    def __init__(self, client: redis.Redis, namespace: str, stay_ms: int) -> None:
        self.stay_ms = stay_ms
        self._client, self._namespace = client, namespace

    def wait(self, slot: str, token: str, stopping: Flag) -> bool:
        """Waits at a lane until the drain is called; false if nobody did in time.

        Args:
            slot: the lane.
            token: the drain.
            stopping: ends the wait when it is set.
        """
        ring = lane_keys(self._namespace, slot).ring + token
        end = time.monotonic() + self.stay_ms / 1000
        while not stopping.is_set() and (left := end - time.monotonic()) > 0:
            if self._client.blpop([ring], timeout=max(min(left, _SLICE_S), _LEAST_S)) is not None:
                return True
        return False
