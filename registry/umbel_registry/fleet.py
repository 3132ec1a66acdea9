"""Which worker has which version loaded: told by their processes, read by everybody else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar, cast

import msgspec

from umbel_batching.census import workers_of
from umbel_config.server import address_of
from umbel_config.store_errors import translate_errors
from umbel_registry.keys import failures_key, process_key, processes_key

if TYPE_CHECKING:
    from redis import Redis

    from umbel_registry.manifest import Manifest

T = TypeVar("T")
#: A process that has told nothing for this long is gone, ms.
STALE_MS = 10_000
_INDEX_TTL_S = 60
#: Seconds within which workers try again what failed before, once somebody wishes for it anew.
RETRY_S = 5.0
LoadState = Literal["loading", "ready", "failed"]


class Held(msgspec.Struct, frozen=True):
    """A version in one process of a worker.

    Attributes:
        model: name of the model.
        version: the version.
        digest: of what is loaded.
        state: ``loading``, ``ready`` (loaded and warm) or ``failed``.
        since_ms: when that began, in ms since 1970 by the worker's clock.
        mb: memory it takes, measured, in MB.
        load_s: seconds that loading took.
        warm_s: seconds that warming up took.
        device: where it runs.
        error: why it failed.
        pinned: whether it is never unloaded.
    """

    model: str
    version: str
    digest: str
    state: LoadState
    since_ms: int
    mb: float = 0.0
    load_s: float = 0.0
    warm_s: float = 0.0
    device: str = ""
    error: str = ""
    pinned: bool = False


class Report(msgspec.Struct, frozen=True):
    """What one process of a worker tells about itself.

    Attributes:
        process: ``host:pid`` of the process that holds the models.
        worker: ``host:pid`` of the worker it belongs to; the same one with the threads pool.
        slots: batches that it runs side by side.
        queues: the Celery queues it serves.
        held: its versions.
        loaded_mb: memory they take, in MB.
        max_loaded_mb: the bound of that; 0: none.
    """

    process: str
    worker: str
    slots: int
    queues: tuple[str, ...]
    held: tuple[Held, ...] = ()
    loaded_mb: float = 0.0
    max_loaded_mb: int = 0

    def of(self, model: str, version: str) -> Held | None:
        """What it holds of a version.

        Args:
            model: name of the model.
            version: the version.
        """
        found = (each for each in self.held if (each.model, each.version) == (model, version))
        return next(found, None)


class LoadFailure(msgspec.Struct, frozen=True):
    """Why a version did not load when that was last tried.

    Attributes:
        at: when, in ms since 1970 by the worker's clock.
        worker: ``host:pid`` of the worker.
        error: what happened.
    """

    at: int
    worker: str
    error: str


@dataclass(frozen=True, slots=True)
class Readiness:
    """How many of the workers that serve a version's queue have it loaded and warm.

    Attributes:
        slots: batches that all of them can run side by side.
        ready: those of them that need not load it first.
        missing: the workers that are not ready, ``host:pid``.
        failed: workers that could not load it, and why.
    """

    slots: int
    ready: int
    missing: tuple[str, ...]
    failed: dict[str, str]

    def enough(self, share: float) -> bool:
        """Whether that share of the slots is ready, and any at all.

        Args:
            share: between 0 and 1.
        """
        return self.slots > 0 and self.ready > 0 and self.ready >= share * self.slots - 1e-9


class Fleet:
    """The workers' processes and what they have loaded.

    Args:
        redis: a client; whether it decodes replies does not matter.
        namespace: prefix of all keys, the ``namespace`` setting.
    """

    def __init__(self, redis: Redis, namespace: str = "umbel") -> None:
        self._redis, self._namespace = redis, namespace
        self._translated = translate_errors(address_of(redis))

    def tell(self, report: Report, now_ms: int) -> None:
        """Tells what a process has loaded; to be told again before ``STALE_MS`` have passed.

        Args:
            report: of the process.
            now_ms: the time by the clock of Redis.
        """
        index = processes_key(self._namespace)
        pipe = self._redis.pipeline(transaction=False)
        pipe.set(
            process_key(self._namespace, report.process), msgspec.json.encode(report), px=STALE_MS
        )
        pipe.zadd(index, {report.process: now_ms + STALE_MS})
        pipe.zremrangebyscore(index, "-inf", now_ms)
        pipe.expire(index, _INDEX_TTL_S)
        with self._translated:
            pipe.execute()

    def leave(self, process: str) -> None:
        """Tells that a process ends.

        Args:
            process: its name.
        """
        pipe = self._redis.pipeline(transaction=False)
        pipe.zrem(processes_key(self._namespace), process)
        pipe.delete(process_key(self._namespace, process))
        with self._translated:
            pipe.execute()

    def reports(self) -> list[Report]:
        """What all live processes have told, by name."""
        with self._translated:
            names = cast("list[bytes]", self._redis.zrange(processes_key(self._namespace), 0, -1))
            if not names:
                return []
            texts = sorted(name.decode() if isinstance(name, bytes) else name for name in names)
            keys = [process_key(self._namespace, name) for name in texts]
            told = cast("list[bytes | None]", self._redis.mget(keys))
        return [report for raw in told if raw for report in _read(raw, Report)]

    def note_failure(self, model: str, version: str, failure: LoadFailure | None) -> None:
        """Keeps why a version did not load, beyond the life of that worker.

        Args:
            model: name of the model.
            version: the version.
            failure: ``None`` once it has loaded.
        """
        key = failures_key(self._namespace, model)
        with self._translated:
            if failure is None:
                self._redis.hdel(key, version)
            else:
                self._redis.hset(key, version, msgspec.json.encode(failure))

    def failures(self, model: str) -> dict[str, LoadFailure]:
        """Why versions of a model did not load, by version.

        Args:
            model: its name.
        """
        with self._translated:
            raw = cast(
                "dict[bytes, bytes]", self._redis.hgetall(failures_key(self._namespace, model))
            )
        return {
            (name.decode() if isinstance(name, bytes) else name): failure
            for name, value in raw.items()
            for failure in _read(value, LoadFailure)
        }

    def readiness(self, manifest: Manifest) -> Readiness:
        """How many of the workers that serve a version have it loaded and warm.

        Args:
            manifest: of the version.
        """
        with self._translated:
            seconds, micros = self._redis.time()
            now_ms = seconds * 1000 + micros // 1000
            workers = workers_of(self._redis, self._namespace, manifest.queue, now_ms)
        return readiness_of(manifest, workers, self.reports())


def _read(raw: bytes, kind: type[T]) -> list[T]:
    try:
        return [msgspec.json.decode(raw, type=kind)]
    except msgspec.MsgspecError:  # of another release; it is as if it had told nothing
        return []


def readiness_of(
    manifest: Manifest, workers: dict[str, int], reports: Sequence[Report]
) -> Readiness:
    """Compares the workers of a queue with what their processes have told.

    Args:
        manifest: of the version.
        workers: live workers of its queue, and how many batches each runs side by side.
        reports: of all processes.
    """
    ready = dict.fromkeys(workers, 0)
    failed: dict[str, str] = {}
    for report in reports:
        held = report.of(manifest.name, manifest.version)
        if held is None or report.worker not in workers or held.digest != manifest.digest:
            continue
        if held.state == "ready":
            ready[report.worker] += report.slots
        elif held.state == "failed":
            failed[report.worker] = held.error
    missing = tuple(name for name, slots in workers.items() if ready[name] < slots)
    counted = sum(min(ready[name], slots) for name, slots in workers.items())
    return Readiness(sum(workers.values()), counted, missing, failed)
