"""Keeping leases: one thread per process renews them while batches are computed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import RedisError

from umbel_batching.calls import Calls
from umbel_batching.scripts import Runner

log = logging.getLogger("umbel.worker")


class LeaseKeeper:
    """Renews the lease of every running batch at a quarter of its length.

    A batch that is over before that costs nothing. If a renewal comes too late, settling will be
    refused by the fence: nothing is published twice.

    Args:
        runner: runs scripts, from any thread.
        calls: of the namespace.
        lease_ms: length of a lease.
    """

    def __init__(self, runner: Runner, calls: Calls, lease_ms: int) -> None:
        self._runner, self._calls, self._lease_ms = runner, calls, lease_ms
        self._held: dict[str, tuple[str, str, bool]] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="umbel-leases", daemon=True)
        self._thread.start()

    @contextmanager
    def hold(self, slot: str, batch: str, token: str, *, unsure: bool = False) -> Iterator[None]:
        """Keeps the lease of ``batch`` while the block runs.

        Args:
            slot: the lane.
            batch: the batch that was claimed.
            token: the drain that runs it.
            unsure: whether its claim or its settling is under way, so that it need not be held.
        """
        with self._lock:
            self._held[batch] = (slot, token, unsure)
        try:
            yield
        finally:
            with self._lock:
                self._held.pop(batch, None)

    def stop(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._lease_ms / 4000):
            with self._lock:
                held = list(self._held.items())
            for batch, (slot, token, unsure) in held:
                self._renew(slot, batch, token, unsure=unsure)

    def _renew(self, slot: str, batch: str, token: str, *, unsure: bool) -> None:
        call = self._calls.renew(slot, batch=batch, token=token, lease_ms=self._lease_ms)
        try:
            if not self._runner.run(call) and batch in self._held and not unsure:
                log.warning("batch %s: lease lost; its outcome will be computed elsewhere", batch)
        except RedisError as error:
            log.warning("batch %s: lease not renewed (%s)", batch, type(error).__name__)
