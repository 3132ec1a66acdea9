"""The Celery app of the workers: broker settings, the infer task, and the worker's companions."""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu import Queue  # type: ignore[attr-defined]

from umbel_config.connect import celery_broker_url
from umbel_config.embedded import find_store
from umbel_config.errors import ConfigError
from umbel_config.settings import Settings, load_settings
from umbel_worker.companions import Companions
from umbel_worker.contradictions import RefuseUnsafe

#: Seconds after which Redis hands an unacknowledged hint to another worker. Nothing depends on
#: it: our own leases bring jobs back long before, and our hints are not kept for it.
VISIBILITY_TIMEOUT_S = 900


def make_app(settings: Settings) -> Celery:
    """The Celery app for ``settings``.

    Args:
        settings: with a ``redis_url``.

    Raises:
        ConfigError: there is no ``redis_url``, or callbacks share a worker with batches.
    """
    if settings.redis_url is None:
        raise ConfigError("The worker needs a Redis: set UMBEL_REDIS_URL, or use `umbel up`.")
    app = Celery("umbel", set_as_current=False, include=[_tasks_for(settings)])
    app.conf.update(celery_config(settings))
    app.steps["worker"].add(Companions)
    app.steps["worker"].add(RefuseUnsafe)
    return app


def _tasks_for(settings: Settings) -> str:
    """The module of the tasks that a process runs: a sender needs no torch."""
    if settings.callback_queue not in settings.queues:
        return "umbel_worker.tasks"
    if len(settings.queues) > 1:
        raise ConfigError(
            f"queues holds {settings.callback_queue}, the queue of callbacks, beside others: a "
            "slow receiver would hold up batches there. Run `umbel sender` for callbacks."
        )
    return "umbel_worker.callback_tasks"


def celery_config(settings: Settings) -> dict[str, Any]:
    """Celery's settings: late acknowledgement, JSON only, no results, one message at a time."""
    url = settings.redis_url.get_secret_value() if settings.redis_url else ""
    return {
        "broker_url": celery_broker_url(url),
        "broker_transport_options": _transport_options(settings),
        "visibility_timeout": VISIBILITY_TIMEOUT_S,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_ignore_result": True,
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "task_track_started": True,
        "task_send_sent_event": True,
        "worker_send_task_events": True,
        "worker_prefetch_multiplier": 1,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_hijack_root_logger": False,
        "worker_pool": settings.pool,
        "worker_pool_start_method": "spawn",
        # A process that is slow to load torch must not be killed for it: the default is 4 s.
        "worker_proc_alive_timeout": 60.0,
        "worker_concurrency": settings.concurrency,
        "task_default_queue": settings.queues[0],
        "task_queues": [
            Queue(name)  # type: ignore[no-untyped-call]
            for name in settings.queues
        ],
        "task_create_missing_queues": True,
    }


def _transport_options(settings: Settings) -> dict[str, Any]:
    """Kombu's options: its key prefix, its timeouts, and no book of what is acknowledged.

    A hint that is lost with its worker is sent again by a flusher. Kombu's book would cost writes
    that a full Redis refuses, and a worker that misses the reply to one never fetches again.
    """
    return {
        "ack_emulation": False,
        "visibility_timeout": VISIBILITY_TIMEOUT_S,
        "global_keyprefix": f"{settings.namespace}:celery:",
        "queue_order_strategy": "priority",
        "socket_timeout": settings.redis_timeout_s,
        "socket_connect_timeout": settings.redis_connect_timeout_s,
        "socket_keepalive": True,
        "health_check_interval": 25,
        "client_name": f"{settings.namespace}-celery",
    }


def __getattr__(name: str) -> Celery:
    """Makes ``app`` on first use, so that ``celery -A umbel_worker.app`` works as usual."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    app = make_app(find_store(load_settings()))
    globals()["app"] = app
    return app
