"""Runs all checks in order; one that cannot run says so and holds up no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import redis
from pydantic import SecretStr
from redis.exceptions import RedisError

from umbel_batching.outbox_look import look_at_outbox
from umbel_cli.doctor.artifacts import judge_artifacts
from umbel_cli.doctor.callback_settings import judge_callback_settings
from umbel_cli.doctor.callbacks import judge_outbox
from umbel_cli.doctor.data import judge_layout
from umbel_cli.doctor.findings import Finding, Level, in_order, skipped, told
from umbel_cli.doctor.lanes import Look, judge_lanes, look, look_again
from umbel_cli.doctor.own_settings import judge_celery, judge_settings
from umbel_cli.doctor.server import ask, judge_server
from umbel_cli.doctor.timing import judge_timing, measure
from umbel_cli.doctor.workers import inspect, judge_configurations, judge_presence, present
from umbel_config.connect import address_of, connect, translate_errors
from umbel_config.embedded import find_store
from umbel_config.errors import StoreRefused, UmbelError
from umbel_config.settings import Settings
from umbel_registry import Catalog, Manifest

#: What cannot be looked at without Redis.
_BEYOND: Final = ("workers.alive", "lanes.served", "callbacks.senders", "models.artifacts")
#: Stands for the address that there is none of, where only the rest of the settings matters.
_ANY_URL: Final = "redis://localhost:6379/0"


def examine(settings: Settings, *, deep: bool = False) -> list[Finding]:
    """All findings, in the order in which they are to be read.

    Args:
        settings: as loaded, with or without a ``redis_url``.
        deep: whether to read all artifacts and compare their SHA-256.

    Raises:
        ConfigError: the ``redis_url`` cannot be read.
    """
    try:
        store = find_store(settings)
    except UmbelError as error:
        return _without_redis(settings, told("redis.reachable", Level.PROBLEM, str(error)))
    with connect(store, client_name="umbel-doctor", retries=0) as client:
        try:
            with translate_errors(address_of(client)):
                client.ping()
        except UmbelError as error:
            return _without_redis(settings, told("redis.reachable", Level.PROBLEM, str(error)))
        embedded = settings.redis_url is None
        return _Examination(client, store, embedded=embedded, deep=deep).run()


def _without_redis(settings: Settings, reason: Finding) -> list[Finding]:
    usable = settings.model_copy(update={"redis_url": SecretStr(_ANY_URL)})
    return [
        reason,
        *judge_settings(settings),
        *_attempt("settings.celery", lambda: judge_celery(usable)),
        *_attempt("settings.callbacks", lambda: judge_callback_settings(settings)),
        *(skipped(check, "Not looked at: Redis cannot be used") for check in _BEYOND),
    ]


def _attempt(check: str, run: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What a check finds, or that it could not look.

    Args:
        check: the name for the finding if it could not.
        run: the check.
    """
    try:
        return list(run())
    except ModuleNotFoundError as error:
        advice = "Install it with: pip install 'umbel[worker]'"
        return [skipped(check, f"This needs {error.name}, which is not installed here", advice)]
    except StoreRefused:
        advice = "Extend the user's ACL rules to have it looked at"
        return [skipped(check, "This user of Redis may not run what this needs", advice)]
    except UmbelError as error:
        return [told(check, Level.PROBLEM, str(error))]
    except RedisError as error:
        # Its words may quote what was sent.
        return [skipped(check, f"Redis does not do what this needs ({type(error).__name__})")]


class _Examination:
    """The checks of a Redis that answers, and of all that hangs on it."""

    def __init__(
        self, client: redis.Redis, settings: Settings, *, embedded: bool, deep: bool
    ) -> None:
        self._client = client
        self._settings, self._space = settings, settings.namespace
        self._embedded, self._deep = embedded, deep
        self._where = address_of(client)
        self._manifests: list[Manifest] = []
        self._first: Look | None = None
        self._answers: dict[str, dict[str, Any]] | None = None

    def run(self) -> list[Finding]:
        """All findings."""
        amiss = [
            *self._attempt("models.registered", self._read_models),
            *self._attempt("lanes.served", self._look),
            *self._attempt("workers.answer", self._ask_workers),
        ]
        found = [
            *self._attempt("redis.version", self._server),
            *self._attempt("redis.latency", lambda: judge_timing(measure(self._client))),
            *self._attempt("redis.layout", lambda: [judge_layout(self._client, self._space)]),
            *judge_settings(self._settings),
            *self._attempt("settings.celery", lambda: judge_celery(self._settings)),
            *self._attempt("settings.callbacks", lambda: judge_callback_settings(self._settings)),
            *self._attempt("workers.alive", self._workers),
            *self._attempt("workers.settings", self._configurations),
            *self._attempt("lanes.served", self._lanes),
            *self._attempt("callbacks.senders", self._callbacks),
            *self._attempt("models.artifacts", self._artifacts),
        ]
        return in_order([*found, *amiss])

    def _attempt(self, check: str, run: Callable[[], Iterable[Finding]]) -> list[Finding]:
        def translated() -> list[Finding]:
            with translate_errors(self._where):
                return list(run())

        return _attempt(check, translated)

    def _read_models(self) -> Iterable[Finding]:
        self._manifests = Catalog(self._client, self._space).list()
        return ()

    def _look(self) -> Iterable[Finding]:
        self._first = look(self._client, self._space)
        return ()

    def _ask_workers(self) -> Iterable[Finding]:
        self._answers = inspect(self._settings)
        return ()

    def _server(self) -> Iterable[Finding]:
        return judge_server(ask(self._client, embedded=self._embedded))

    def _workers(self) -> Iterable[Finding]:
        lanes = self._first.lanes if self._first else ()
        queues = {
            *self._settings.queues,
            *(manifest.queue for manifest in self._manifests),
            *(lane.queue for lane in lanes),
        }
        workers = present(self._client, self._space, sorted(queues))
        return judge_presence(self._manifests, workers, self._answers_of_workers())

    def _answers_of_workers(self) -> dict[str, dict[str, Any]] | None:
        """The answers without those of senders, which serve no model."""
        own = self._settings.callback_queue
        return self._answers and {
            name: config
            for name, config in self._answers.items()
            if config.get("task_default_queue") != own
        }

    def _configurations(self) -> Iterable[Finding]:
        if not self._answers:
            return ()
        from umbel_worker.app import celery_config  # noqa: PLC0415  (there is Celery if they answered)

        return judge_configurations(celery_config(self._settings), self._answers)

    def _lanes(self) -> Iterable[Finding]:
        if self._first is None:
            return ()
        return judge_lanes(look_again(self._client, self._space, self._first))

    def _callbacks(self) -> Iterable[Finding]:
        return judge_outbox(self._settings, look_at_outbox(self._client, self._settings))

    def _artifacts(self) -> Iterable[Finding]:
        return judge_artifacts(self._manifests, self._settings.artifacts, deep=self._deep)
