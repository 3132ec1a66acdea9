"""Bringing a flusher's wake-ups to workers and senders, as Celery messages that carry no data."""

from __future__ import annotations

from celery import Celery

from umbel_batching.flusher import Drain, Flusher
from umbel_batching.outbox import OutboxCalls
from umbel_batching.retention import Retention
from umbel_batching.summoner import Summoner, Summons
from umbel_config.connect import connect
from umbel_config.settings import Settings
from umbel_registry.shadows import ShadowWatch

#: Names of the two tasks: workers drain a lane, senders deliver callbacks.
INFER, DELIVER = "umbel.infer", "umbel.deliver"


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


class CelerySummons:
    """Sends a call for a sender as one Celery message; what a ``Summoner`` is given as ``send``.

    Args:
        app: from ``make_app``.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app

    def __call__(self, summons: Summons) -> None:
        """Sends one hint; raises what the broker raises."""
        self._app.send_task(DELIVER, task_id=summons.token, queue=summons.queue, ignore_result=True)


def make_flusher(settings: Settings, app: Celery) -> Flusher:
    """A flusher on a connection of its own, that wakes Celery workers and senders.

    Args:
        settings: with a ``redis_url``.
        app: whose broker the wake-ups go through.
    """
    outbox = OutboxCalls.of(settings)
    client = connect(settings, purpose="blocking", client_name="umbel-flusher")
    return Flusher(
        client,
        settings.namespace,
        CeleryDispatch(app),
        max_attempts=settings.max_attempts,
        keep=Retention.of(settings),
        summoner=Summoner(outbox, settings.callback_queue, CelerySummons(app)),
        on_lost=ShadowWatch(client, settings.namespace).lost,
    )
