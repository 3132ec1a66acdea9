"""Settings of this machine that contradict each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from umbel_cli.doctor.findings import Finding, ok, problem, warning
from umbel_config.settings import Settings

_SHORT_LEASE_MS, _LONG_LEASE_MS, _SHORT_RESULT_S = 1_000, 300_000, 30


def judge_settings(settings: Settings) -> list[Finding]:
    """What contradicts itself in the settings; one finding that all is well if nothing does.

    Args:
        settings: as loaded.
    """
    found = [finding for rule in _RULES for finding in rule(settings)]
    return found or [ok("settings.umbel", "Nothing contradicts itself")]


def judge_celery(settings: Settings) -> list[Finding]:
    """What contradicts itself in the Celery configuration that these settings make.

    Args:
        settings: with a ``redis_url``.

    Raises:
        ModuleNotFoundError: Celery is not installed here.
    """
    from umbel_worker.app import celery_config  # noqa: PLC0415  (not every machine has Celery)
    from umbel_worker.contradictions import contradictions, visibility_timeout  # noqa: PLC0415

    config = celery_config(settings)
    found = [
        (problem if each.unsafe else warning)(
            "settings.celery", each.sentence.rstrip("."), each.advice.rstrip(".")
        )
        for each in contradictions(config)
    ]
    found += _drain(settings, visibility_timeout(config))
    return found or [ok("settings.celery", "JSON only, late acknowledgement, no prefetching")]


def _lease(settings: Settings) -> Iterator[Finding]:
    lease = settings.lease_ms
    if lease < _SHORT_LEASE_MS:
        yield warning(
            "settings.umbel",
            f"lease_ms is {lease}: a worker that pauses for a moment loses its batch, which is "
            "then computed again",
            f"Set lease_ms to {_SHORT_LEASE_MS} or more; 10000 is the default",
        )
    if lease > _LONG_LEASE_MS:
        yield warning(
            "settings.umbel",
            f"lease_ms is {lease}: the jobs of a worker that dies stand still for "
            f"{lease / 60_000:.3g} min",
            "Lower it: leases are renewed while a batch runs, so even a long batch needs no long "
            "one",
        )


def _drain(settings: Settings, visible_s: float) -> Iterator[Finding]:
    if settings.drain_budget_ms >= 1000 * visible_s:
        yield warning(
            "settings.celery",
            f"drain_budget_ms ({settings.drain_budget_ms}) is not below Celery's visibility "
            f"timeout ({visible_s:g} s): a drain that still runs is sent to a second worker, and "
            "other lanes wait for their turn",
            "Set it to a few seconds; 2000 is the default",
        )


def _retention(settings: Settings) -> Iterator[Finding]:
    if settings.result_ttl_s < _SHORT_RESULT_S:
        yield warning(
            "settings.umbel",
            f"result_ttl_s is {settings.result_ttl_s}: a client that looks a little later finds "
            "its result expired",
            f"Set it to {_SHORT_RESULT_S} or more; 3600 is the default",
        )
    if settings.dead_ttl_s < settings.result_ttl_s:
        yield warning(
            "settings.umbel",
            f"dead_ttl_s ({settings.dead_ttl_s}) is below result_ttl_s ({settings.result_ttl_s}): "
            "a failed job is forgotten before one that succeeded",
            "Set dead_ttl_s to result_ttl_s or more",
        )


def _recording(settings: Settings) -> Iterator[Finding]:
    if settings.max_dead and settings.max_dead_bytes < settings.max_payload_bytes:
        yield warning(
            "settings.umbel",
            f"max_dead_bytes ({settings.max_dead_bytes}) is below max_payload_bytes "
            f"({settings.max_payload_bytes}): a batch with one large input cannot be recorded, "
            "and so not replayed",
            "Raise max_dead_bytes, or lower max_payload_bytes",
        )


def _queues(settings: Settings) -> Iterator[Finding]:
    twice = sorted({name for name in settings.queues if settings.queues.count(name) > 1})
    if twice:
        yield warning(
            "settings.umbel", f"queues names {', '.join(twice)} twice", "Name each queue once"
        )


_RULES: Final[tuple[Callable[[Settings], Iterator[Finding]], ...]] = (
    _lease,
    _retention,
    _recording,
    _queues,
)
