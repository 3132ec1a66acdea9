"""The Celery task of senders: a hint that callbacks are due. It carries no data, needs no torch."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from celery import Task, shared_task
from celery.signals import worker_process_shutdown, worker_shutdown
from redis.exceptions import RedisError

from umbel_config.errors import ConfigError, StoreUnavailable
from umbel_worker import sending
from umbel_worker.dispatch import DELIVER

log = logging.getLogger("umbel.sender")
#: Longest turn of a sender, in seconds; then others may have theirs.
_BUDGET_S = 10.0


@shared_task(  # type: ignore[untyped-decorator]
    name=DELIVER, bind=True, acks_late=True, reject_on_worker_lost=True, ignore_result=True
)
def deliver(self: Task) -> dict[str, Any]:
    """Sends callbacks until none has been due for a while.

    Losing or doubling this task does no harm: what is sent is decided when the sender takes it,
    and a flusher calls another one while callbacks are due.

    Args:
        self: the task; its id is the token of the turn.

    Returns:
        POSTs made; callbacks delivered, to be tried again, and given up.
    """
    try:
        tally = sending.sender_thread().turn(self.request.id, _BUDGET_S)
    except (RedisError, StoreUnavailable, OSError) as error:
        log.warning("%s; callbacks wait for the next call", type(error).__name__)
        return {"posts": 0, "error": type(error).__name__}
    except ConfigError as error:
        log.error("callbacks wait: %s", error)  # noqa: TRY400  (a typed error, not a bug)
        return {"posts": 0, "error": type(error).__name__}
    return asdict(tally)


@worker_shutdown.connect  # type: ignore[untyped-decorator]
@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _close(**_: Any) -> None:
    """Closes what the sender holds when its process ends as it should."""
    sending.close()
