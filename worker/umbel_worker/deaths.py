"""When a process of the pool dies: its batch is taken back at once, with the cause as evidence."""

from __future__ import annotations

import logging
import threading
from typing import Any

from billiard import active_children
from billiard.einfo import ExceptionWithTraceback
from celery.exceptions import WorkerLostError
from celery.worker.request import Request
from celery.worker.state import task_ready
from redis.exceptions import RedisError

from umbel_batching.calls import Calls
from umbel_batching.lanes import slot_of
from umbel_batching.scripts import Runner
from umbel_config.connect import connect
from umbel_config.embedded import find_store
from umbel_config.errors import UmbelError
from umbel_config.settings import load_settings
from umbel_worker.exits import how_it_ended

log = logging.getLogger("umbel.worker")


class DrainRequest(Request):  # type: ignore[misc]
    """A wake-up as the parent of the pool sees it.

    One whose process died is acknowledged, not requeued, whatever ``reject_on_worker_lost`` says:
    it would come back under the same token, and what ends the leases of the dead would end those
    of its successor. Flushers send another for jobs that wait.
    """

    _process: Any = None

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """Notes which process runs it: Celery tells how that ended only as text."""
        super().on_accepted(pid, time_accepted)
        self._process = next((each for each in active_children() if each.pid == pid), None)

    def on_failure(
        self,
        exc_info: Any,
        send_failed_event: bool = True,  # noqa: FBT001, FBT002  (Celery's protocol)
        return_ok: bool = False,  # noqa: FBT001, FBT002
    ) -> None:
        """Reports a death in one line; any other failure is Celery's to handle."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        if not self._is_death(error):
            super().on_failure(exc_info, send_failed_event, return_ok)
            return
        cause = how_it_ended(self._exit_code(error))
        task_ready(self)
        log.error(
            "lane %s: pool process %s, which ran a batch of it, %s", self.args[0], *self._end(cause)
        )
        self.acknowledge()
        self.send_event("task-failed", exception=f"WorkerLost: {cause}", traceback="")
        take_back(self.args[0], self.id, cause)

    def _is_death(self, error: BaseException) -> bool:
        if isinstance(error, (SystemExit, KeyboardInterrupt)):
            return not (self._already_cancelled or self._already_revoked)
        return isinstance(error, WorkerLostError)

    def _exit_code(self, error: BaseException) -> int | None:
        """The exit code; a process that is told to end may report so before it has one."""
        code = getattr(self._process, "exitcode", None)
        if code is None and isinstance(error, SystemExit) and isinstance(error.code, int):
            return error.code
        return code

    def _end(self, cause: str) -> tuple[int | None, str]:
        return self.worker_pid, f"was {cause}" if cause.startswith("killed") else cause


def take_back(lane: str, token: str, cause: str) -> None:
    """Has the batches of a dead drain taken back now; returns at once, whatever Redis does.

    Args:
        lane: name of the lane.
        token: the drain.
        cause: what became of its process.
    """
    threading.Thread(
        target=_orphan, args=(lane, token, cause), name="umbel-orphan", daemon=True
    ).start()


def _orphan(lane: str, token: str, cause: str) -> None:
    try:
        settings = find_store(load_settings())
        with connect(settings, client_name="umbel-orphan") as client:
            call = Calls.of(settings).orphan(slot_of(lane), owner=token, cause=cause)
            Runner(client).run(call)
    except (RedisError, UmbelError) as error:
        log.warning(
            "lane %s: the batch waits until its lease runs out (%s)", lane, type(error).__name__
        )
