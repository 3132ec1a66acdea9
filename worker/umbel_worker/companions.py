"""What runs beside the pool of a worker: its flusher, and the news that it is alive."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

from celery import bootsteps
from celery.signals import worker_shutdown, worker_shutting_down
from redis.exceptions import RedisError

from umbel_batching.calls import Calls
from umbel_batching.flusher import Flusher, sweep
from umbel_batching.scripts import Runner
from umbel_config.connect import connect
from umbel_config.embedded import find_store
from umbel_config.errors import StoreUnsuitable
from umbel_config.settings import Settings, load_settings
from umbel_worker.conductor import Conductor
from umbel_worker.dispatch import make_flusher
from umbel_worker.grace import Grace
from umbel_worker.repair import Repair
from umbel_worker.shutdown import stopping

log = logging.getLogger("umbel.worker")
_BEAT_S, _STALE_MS = 2.0, 10_000


class Presence:
    """Tells flushers every two seconds how many batches this worker can run side by side.

    At the same pace it looks whether Redis has lost its data, and has that repaired.

    Args:
        settings: with a ``redis_url``; its queues and concurrency are what is told.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._calls = Calls.of(settings)
        self._runner = Runner(connect(settings, client_name="umbel-presence"))
        self._repair = Repair(settings, self._runner, self._calls)
        self._worker = f"{socket.gethostname()}:{os.getpid()}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="umbel-presence", daemon=True)

    def start(self) -> None:
        """Tells it once, has every lane with work looked at, and goes on in a thread.

        Raises:
            StoreUnsuitable: Redis holds data that this version of umbel would misread.
        """
        self._repair.look()
        self._tell(_STALE_MS)
        try:
            sweep(self._runner, self._calls, now=True)
        except RedisError as error:
            log.warning("Redis does not answer (%s); lanes not looked at", type(error).__name__)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, and tells that the worker leaves."""
        self._stop.set()
        self._thread.join()
        self._tell(0)
        self._runner.client.close()

    def _run(self) -> None:
        while not self._stop.wait(_BEAT_S):
            self._tell(_STALE_MS)
            try:
                self._repair.look()
            except StoreUnsuitable as error:
                log.error("%s", error)  # noqa: TRY400  (a typed error, not a bug)

    def _tell(self, stale_ms: int) -> None:
        slots = self._settings.concurrency
        try:
            for queue in self._settings.queues:
                call = self._calls.announce(queue, self._worker, slots=slots, stale_ms=stale_ms)
                self._runner.run(call)
        except RedisError as error:
            log.warning("Redis does not answer (%s); presence not told", type(error).__name__)


class Companions(bootsteps.StartStopStep):  # type: ignore[misc]
    """Starts and stops them with the worker process, not with its connection to the broker.

    The flusher runs in a thread with a connection of its own. It must not live in the consumer's
    event loop: that is torn down at every reconnect.
    """

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        stopping.share()
        self._grace: Grace | None = None
        self._presence: Presence | None = None
        self._flusher: Flusher | None = None
        self._thread: threading.Thread | None = None
        self._conductor: Conductor | None = None
        self._end: Callable[[], None] | None = None

    def start(self, parent: Any) -> None:
        """Called by Celery when the pool is up."""
        settings = find_store(load_settings())
        self._grace = Grace(settings)
        # Sent by the signal handler itself; Celery's own steps may take seconds to notice.
        worker_shutting_down.connect(self._grace.begin, weak=False)
        worker_shutdown.connect(self._grace.call_off, weak=False)
        presence = Presence(settings)
        presence.start()
        self._presence = presence
        self._conductor = Conductor(settings)
        self._conductor.start()
        if settings.pool == "threads" and settings.callback_queue not in settings.queues:
            from umbel_worker import runtime  # noqa: PLC0415  (loads torch, which senders lack)

            runtime.begin()
            self._end = runtime.end
        if settings.flusher:
            self._flusher = make_flusher(settings, parent.app)
            self._thread = threading.Thread(
                target=self._flusher.run, name="umbel-flusher", daemon=True
            )
            self._thread.start()

    def stop(self, parent: Any) -> None:  # noqa: ARG002  (Celery's protocol)
        """Called by Celery at shutdown, while the last batches still run."""
        if self._grace is not None:
            self._grace.begin()
        if self._flusher is not None:
            self._flusher.stop()
        if self._conductor is not None:
            self._conductor.stop()
        if self._end is not None:
            self._end()
        if self._presence is not None:
            self._presence.stop()
        if self._thread is not None:
            self._thread.join()

    terminate = stop
