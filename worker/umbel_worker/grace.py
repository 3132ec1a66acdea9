"""The time that a stopping worker gives its batches, and what becomes of those that need longer."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from billiard import active_children
from celery.worker import state
from redis.exceptions import RedisError

from umbel_batching.calls import Calls
from umbel_batching.lanes import slot_of
from umbel_batching.scripts import Runner
from umbel_config.connect import connect
from umbel_config.settings import Settings
from umbel_worker.shutdown import Stopping, stopping

log = logging.getLogger("umbel.worker")
#: Longest wait for Redis, and for whoever reads the log, before the process ends all the same.
_LAST_WORDS_S = 1.0


def leave_at_once(code: int) -> None:
    """Ends this process and its pool; a thread that computes cannot be ended otherwise.

    Args:
        code: exit code of the process.
    """
    for child in active_children():
        with suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
    stopping.clear_away()
    os._exit(code)


class Grace:
    """Ends drains when the worker shuts down, and the worker when its time is up.

    Celery waits for running tasks as long as they take. What runs when the time is up is handed
    back, so that another worker has it at once and no job is charged with an attempt.

    Args:
        settings: with a ``redis_url``; ``grace_s`` is the time.
        flag: is set at the begin.
        leave: ends the process, given its exit code.
    """

    def __init__(
        self,
        settings: Settings,
        flag: Stopping = stopping,
        leave: Callable[[int], None] = leave_at_once,
    ) -> None:
        self._settings, self._flag, self._leave = settings, flag, leave
        self._code = 0
        self._over = threading.Event()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._thread = threading.Thread(target=self._run, name="umbel-grace", daemon=True)
        self._thread.start()

    def begin(self, exitcode: int | None = None, **_: Any) -> None:
        """Starts the time; a receiver of ``worker_shutting_down``, which signal handlers send.

        It may interrupt anything, so it takes no lock: one byte wakes the thread that does the
        rest.

        Args:
            exitcode: what Celery will exit with.
        """
        self._code = self._code if exitcode is None else exitcode
        with suppress(BlockingIOError):
            os.write(self._writer, b"!")

    def call_off(self, **_: Any) -> None:
        """Forgets about the time; a receiver of ``worker_shutdown``: all drains have ended."""
        self._over.set()
        self.begin()
        self._thread.join()
        self._flag.clear_away()

    def _run(self) -> None:
        os.read(self._reader, 1)
        if self._over.is_set():
            return
        self._flag.set()
        if self._over.wait(self._settings.grace_s):
            return
        last = threading.Thread(target=self._last_words, name="umbel-last-words", daemon=True)
        last.start()
        last.join(_LAST_WORDS_S)
        self._leave(self._code)

    def _last_words(self) -> None:
        """Hands back what still runs, and says so; given up where Redis or the log block."""
        drains = [(each.args[0], each.id) for each in list(state.requests.values()) if each.args]
        try:
            jobs = self._hand_back(drains)
        except RedisError as error:
            log.warning(
                "not done within grace_s (%g s), and Redis does not answer (%s): what ran waits "
                "again when its lease runs out",
                *(self._settings.grace_s, type(error).__name__),
            )
        else:
            log.warning(
                "not done within grace_s (%g s): handed back %d jobs; they wait for another worker",
                *(self._settings.grace_s, jobs),
            )
        for handler in logging.getLogger().handlers:
            handler.flush()

    def _hand_back(self, drains: list[tuple[str, str]]) -> int:
        calls = Calls.of(self._settings)
        wait_s = min(_LAST_WORDS_S, self._settings.redis_timeout_s)
        quick = {"redis_timeout_s": wait_s, "redis_connect_timeout_s": wait_s}
        with connect(self._settings.model_copy(update=quick), retries=0) as client:
            runner = Runner(client)
            back = [calls.hand_back(slot_of(lane), token) for lane, token in drains]
            return sum(runner.run_together(back)) if back else 0
