"""Celery settings that contradict each other, found before they can hurt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from celery import bootsteps

from umbel_config.errors import ConfigError

#: What Celery's Redis transport takes where nothing is set, in seconds.
DEFAULT_VISIBILITY_S: Final = 3600
_JSON: Final = frozenset({"json", "application/json"})
#: Formats whose reader runs what it reads.
_RUNS_CODE: Final = frozenset(
    {"pickle", "application/x-python-serialize", "yaml", "application/x-yaml"}
)
_VISIBILITY_PLACES: Final = ("visibility_timeout", "result_backend_transport_options")


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Settings that do not go together.

    Attributes:
        setting: the Celery setting to change.
        sentence: what is wrong.
        advice: what to do.
        unsafe: whether a worker must not start with it.
    """

    setting: str
    sentence: str
    advice: str
    unsafe: bool = False


def contradictions(config: Mapping[str, Any]) -> list[Contradiction]:
    """Everything in a Celery configuration that works against itself or against umbel.

    Args:
        config: settings by lower-case name; one that is missing counts as Celery's default.
    """
    return [found for rule in _RULES for found in rule(config)]


def visibility_timeout(config: Mapping[str, Any]) -> float:
    """Seconds after which a message that nobody acknowledged is delivered again.

    Args:
        config: as for ``contradictions``.
    """
    options = config.get("broker_transport_options") or {}
    return float(options.get("visibility_timeout", DEFAULT_VISIBILITY_S))


def refuse_unsafe(config: Mapping[str, Any]) -> None:
    """Passes a configuration that a worker can run with.

    Args:
        config: as for ``contradictions``.

    Raises:
        ConfigError: it holds a contradiction that is unsafe.
    """
    unsafe = [found for found in contradictions(config) if found.unsafe]
    if unsafe:
        raise ConfigError(" ".join(f"{found.sentence} {found.advice}" for found in unsafe))


class RefuseUnsafe(bootsteps.Step):  # type: ignore[misc]
    """Keeps a worker from starting with settings that are unsafe, its flags included."""

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        flags = {
            "task_time_limit": parent.time_limit,
            "task_soft_time_limit": parent.soft_time_limit,
        }
        refuse_unsafe({**parent.app.conf, **flags})


def _time_limits(config: Mapping[str, Any]) -> Iterator[Contradiction]:
    visible = visibility_timeout(config)
    for name in ("task_time_limit", "task_soft_time_limit"):
        limit = config.get(name)
        if limit and limit >= visible:
            yield Contradiction(
                name,
                f"{name} ({limit:g} s) is not below the visibility timeout ({visible:g} s): a "
                "drain that may still run is handed to a second worker.",
                f"Set {name} below {visible:g}, at best to a third of it, or leave it out.",
                unsafe=True,
            )


def _order_of_limits(config: Mapping[str, Any]) -> Iterator[Contradiction]:
    hard, soft = config.get("task_time_limit"), config.get("task_soft_time_limit")
    if hard and soft and soft >= hard:
        yield Contradiction(
            "task_soft_time_limit",
            f"task_soft_time_limit ({soft:g} s) is not below task_time_limit ({hard:g} s): the "
            "worker is killed before it is asked.",
            "Set the soft limit some seconds below the hard one.",
        )
    if (hard or soft) and config.get("worker_pool") == "threads":
        yield Contradiction(
            "task_time_limit",
            "A time limit is set, but the threads pool cannot enforce one.",
            "Leave it out, or use pool prefork.",
        )


def _two_visibility_timeouts(config: Mapping[str, Any]) -> Iterator[Contradiction]:
    visible = visibility_timeout(config)
    for place in _VISIBILITY_PLACES:
        value = config.get(place)
        other = value.get("visibility_timeout") if isinstance(value, Mapping) else value
        if other is not None and other != visible:
            yield Contradiction(
                place,
                f"Two visibility timeouts: {other:g} s in {place}, {visible:g} s in "
                "broker_transport_options. The shorter one wins.",
                f"Set both to {max(other, visible):g}.",
            )


def _acknowledgement(config: Mapping[str, Any]) -> Iterator[Contradiction]:
    if not config.get("task_acks_late", False):
        yield Contradiction(
            "task_acks_late",
            "task_acks_late is off: the wake-up of a worker that dies is lost, and its lane waits "
            "until a flusher sends another.",
            "Set task_acks_late to true.",
        )
    elif not config.get("task_reject_on_worker_lost", False):
        yield Contradiction(
            "task_reject_on_worker_lost",
            "task_reject_on_worker_lost is off: late acknowledgement does not cover a pool process "
            "that is killed.",
            "Set task_reject_on_worker_lost to true.",
        )


def _prefetch(config: Mapping[str, Any]) -> Iterator[Contradiction]:
    prefetch = config.get("worker_prefetch_multiplier", 4)
    if prefetch != 1:
        count = "any number of" if prefetch == 0 else f"{prefetch}"
        yield Contradiction(
            "worker_prefetch_multiplier",
            f"worker_prefetch_multiplier is {prefetch}: {count} wake-ups per slot lie with one "
            "worker while others are idle.",
            "Set worker_prefetch_multiplier to 1.",
        )


def _serializers(config: Mapping[str, Any]) -> Iterator[Contradiction]:
    for name in ("task_serializer", "result_serializer", "event_serializer"):
        used = config.get(name, "json")
        if used not in _JSON:
            yield Contradiction(
                name,
                f"{name} is {used}; workers of umbel read JSON only.",
                f"Set {name} to json.",
                unsafe=used in _RUNS_CODE,
            )


def _accepted(config: Mapping[str, Any]) -> Iterator[Contradiction]:
    for name in ("accept_content", "result_accept_content"):
        given = config.get(name)
        if given is None:
            continue
        runs = sorted(_RUNS_CODE.intersection(given))
        if runs:
            yield Contradiction(
                name,
                f"{name} has {', '.join(runs)}: whoever can write to Redis can run code in a "
                "worker.",
                f"Set {name} to json alone.",
                unsafe=True,
            )
        if not _JSON.intersection(given):
            yield Contradiction(
                name,
                f"{name} lacks json: the worker can read no wake-up.",
                f"Set {name} to json alone.",
                unsafe=name == "accept_content",
            )


def _queues(config: Mapping[str, Any]) -> Iterator[Contradiction]:
    queues, default = config.get("task_queues"), config.get("task_default_queue", "celery")
    names = [_queue_name(queue) for queue in queues or ()]
    if names and default not in names:
        yield Contradiction(
            "task_default_queue",
            f"task_default_queue is {default}, but the worker listens on {', '.join(names)}.",
            "Name one of them.",
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        yield Contradiction(
            "task_queues", f"Queues are listed twice: {', '.join(twice)}.", "Name each once."
        )


def _queue_name(queue: Any) -> str:
    """The name of a queue: an object here, a mapping as a remote worker tells it, or a word."""
    if isinstance(queue, Mapping):
        return str(queue.get("name", ""))
    return str(getattr(queue, "name", queue))


_RULES: Final[tuple[Callable[[Mapping[str, Any]], Iterator[Contradiction]], ...]] = (
    _time_limits,
    _order_of_limits,
    _two_visibility_timeouts,
    _acknowledgement,
    _prefetch,
    _serializers,
    _accepted,
    _queues,
)
