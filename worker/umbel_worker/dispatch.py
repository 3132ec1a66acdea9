"""Bringing the flusher's wake-ups to workers, as Celery messages that carry no data."""

from __future__ import annotations

from celery import Celery

from umbel_batching.flusher import Drain, Flusher
from umbel_batching.retention import Retention
from umbel_config.connect import connect
from umbel_config.settings import Settings

#: Name of the one task.
INFER = "umbel.infer"


class CeleryDispatch:
    """Sends a wake-up as one Celery message; what a flusher is given as ``dispatch``.

    Args:
        app: from ``make_app``.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app

    def __call__(self, drain: Drain) -> None:
        """Sends one hint; raises what the broker raises."""
        self._app.send_task(
            INFER, args=(drain.lane,), task_id=drain.token, queue=drain.queue, ignore_result=True
        )


def make_flusher(settings: Settings, app: Celery) -> Flusher:
    """A flusher on a connection of its own, that wakes Celery workers.

    Args:
        settings: with a ``redis_url``.
        app: whose broker the wake-ups go through.
    """
    return Flusher(
        connect(settings, purpose="blocking", client_name="umbel-flusher"),
        settings.namespace,
        CeleryDispatch(app),
        max_attempts=settings.max_attempts,
        keep=Retention.of(settings),
    )
