"""Which workers are there, whether they answer, and whether their Celery settings agree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import redis

from umbel_batching.census import workers_of
from umbel_cli.doctor.findings import Finding, counted, listed, ok, problem, skipped, warning
from umbel_config.errors import StoreUnavailable
from umbel_config.settings import Settings
from umbel_registry import Manifest

#: Seconds in which workers answer the question for their settings.
_ANSWER_S: Final = 1.0
_HERE: Final = "this machine"


def inspect(settings: Settings) -> dict[str, dict[str, Any]]:
    """The Celery configuration of every worker that answers, by the worker's name.

    Args:
        settings: with a ``redis_url``.

    Raises:
        ModuleNotFoundError: Celery is not installed here.
        StoreUnavailable: the broker went away.
    """
    from umbel_worker.app import make_app  # noqa: PLC0415  (not every machine has Celery)

    with make_app(settings) as app:
        try:
            return app.control.inspect(timeout=_ANSWER_S).conf() or {}
        except app.connection().connection_errors as error:
            raise StoreUnavailable(
                f"Celery's broker went away while workers were asked ({type(error).__name__}). "
                "Try again"
            ) from None


def present(
    client: redis.Redis, namespace: str, queues: Sequence[str]
) -> dict[str, dict[str, int]]:
    """The live workers of each queue, and how many batches each runs side by side.

    Args:
        client: of the server.
        namespace: prefix of every key.
        queues: Celery queues.
    """
    seconds, micros = client.time()
    now_ms = seconds * 1000 + micros // 1000
    return {queue: workers_of(client, namespace, queue, now_ms) for queue in queues}


def judge_presence(
    manifests: Sequence[Manifest],
    workers: Mapping[str, Mapping[str, int]],
    answers: Mapping[str, Any] | None,
) -> Iterator[Finding]:
    """Whether there are workers, whether they answer, and whether every model has one.

    Args:
        manifests: all registered versions.
        workers: from ``present``.
        answers: from ``inspect``; ``None``: nobody was asked.
    """
    names = {name for each in workers.values() for name in each}
    slots = {name: count for each in workers.values() for name, count in each.items()}
    if names:
        total = counted(sum(slots.values()), "batch", "batches")
        yield ok(
            "workers.alive", f"{counted(len(names), 'worker')}, with room for {total} at a time"
        )
    else:
        yield warning("workers.alive", "No worker is alive", "Start one: umbel up, or umbel worker")
    if answers is not None:
        yield _answering(len(names), len(answers))
    yield _models(manifests, workers)


def _answering(alive: int, answering: int) -> Finding:
    check = "workers.answer"
    if not alive and not answering:
        return skipped(check, "No worker answers Celery's remote control; none is alive")
    if alive > answering:
        return warning(
            check,
            f"{counted(alive, 'worker')} alive, {answering or 'none'} answered remote control",
            "If this stays so, its connection to the broker hangs: start the worker again",
        )
    if not alive:
        return warning(
            check,
            f"{counted(answering, 'worker')} answered by remote control, but told no flusher that "
            "it is alive",
            "If this stays so, start it again",
        )
    return ok(check, f"{counted(answering, 'worker')} answered by remote control")


def _models(manifests: Sequence[Manifest], workers: Mapping[str, Mapping[str, int]]) -> Finding:
    check = "workers.models"
    without: defaultdict[str, list[str]] = defaultdict(list)
    for manifest in manifests:
        if not workers.get(manifest.queue):
            without[manifest.queue].append(f"{manifest.name} {manifest.version}")
    if not manifests:
        return ok(check, "No model is registered yet")
    if not without:
        return ok(check, f"{counted(len(manifests), 'model version')}, each with a worker for it")
    names = [f"{listed(names)} (queue {queue})" for queue, names in sorted(without.items())]
    return warning(
        check,
        f"No worker serves {'; '.join(names)}",
        f"Start one: umbel worker --queues {','.join(sorted(without))}",
    )


def judge_configurations(
    own: Mapping[str, Any], answers: Mapping[str, Mapping[str, Any]]
) -> list[Finding]:
    """What contradicts itself in live workers, and what they see differently.

    Args:
        own: the Celery configuration that the settings of this machine make.
        answers: from ``inspect``.
    """
    found = [*_inside(answers), *_between({_HERE: own, **answers})]
    if found or not answers:
        return found
    return [ok("workers.settings", "The Celery settings of all workers agree, and with ours")]


def _inside(answers: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    from umbel_worker.contradictions import contradictions  # noqa: PLC0415  (needs Celery)

    of_whom = defaultdict(list)
    for worker, config in sorted(answers.items()):
        for found in contradictions(config):
            of_whom[found].append(worker)
    for found, workers in of_whom.items():
        yield (problem if found.unsafe else warning)(
            "workers.settings",
            f"{found.sentence.rstrip('.')} ({listed(workers)})",
            f"{found.advice} Then start the worker again",
        )


def _between(configs: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    from umbel_worker.contradictions import visibility_timeout  # noqa: PLC0415  (needs Celery)

    values = {name: f"{visibility_timeout(each):g} s" for name, each in configs.items()}
    if len(set(values.values())) > 1:
        yield problem(
            "workers.settings",
            f"Visibility timeouts differ: {_who_has_what(values)}; the shortest one wins for all",
            "Start all workers of one namespace with one version of umbel and one configuration",
        )
    for name, default in (("task_acks_late", False), ("accept_content", ["json"])):
        values = {who: _word(each.get(name, default)) for who, each in configs.items()}
        if len(set(values.values())) > 1:
            yield warning(
                "workers.settings",
                f"{name} differs: {_who_has_what(values)}",
                "Start all workers of one namespace with one configuration",
            )


def _who_has_what(values: Mapping[str, str]) -> str:
    """``900 s (this machine), 60 s (a, b)``."""
    holders: defaultdict[str, list[str]] = defaultdict(list)
    for who, value in values.items():
        holders[value].append(who)
    return ", ".join(f"{value} ({listed(who)})" for value, who in holders.items())


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(sorted(value)) if isinstance(value, list | tuple | set) else str(value)
