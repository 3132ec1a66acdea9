"""The one Celery task: a hint that a lane has work. It carries no data."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from celery import Task, shared_task
from celery.signals import worker_process_init, worker_process_shutdown
from redis.exceptions import RedisError

from umbel_config.errors import ModelUnavailable, StoreUnavailable
from umbel_worker import runtime
from umbel_worker.dispatch import INFER

log = logging.getLogger("umbel.worker")


@shared_task(  # type: ignore[untyped-decorator]
    name=INFER,
    bind=True,
    acks_late=True,
    reject_on_worker_lost=True,
    ignore_result=True,
    Request="umbel_worker.deaths:DrainRequest",
)
def infer(self: Task, lane: str) -> dict[str, Any]:
    """Drains a lane.

    Losing, doubling or reordering this task delays jobs at most: what runs is decided when a
    worker claims, and the flusher sends another hint for work that nobody claims.

    Args:
        self: the task; its id is the token of the drain.
        lane: name of the lane, for example ``digits@3``.

    Returns:
        Jobs and batches run, jobs failed, jobs whose lease was lost.
    """
    try:
        tally = runtime.drainer().drain(lane, self.request.id)
    except (RedisError, StoreUnavailable, OSError) as error:
        log.warning("lane %s: %s; its jobs wait for the next wake-up", lane, error)
        return {"jobs": 0, "error": type(error).__name__}
    except ModelUnavailable as error:
        log.error("lane %s waits for a worker that can run it: %s", lane, error)  # noqa: TRY400
        return {"jobs": 0, "error": type(error).__name__}
    return asdict(tally)


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _begin(**_: Any) -> None:
    """Has a process of a pool tell what it has loaded, and load what is wanted, from its start."""
    runtime.begin()


@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _end(**_: Any) -> None:
    """Tells that it leaves."""
    runtime.end()
