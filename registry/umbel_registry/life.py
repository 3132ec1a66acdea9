"""The life of versions: what each is at now, as workers tell it and routes say it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from umbel_registry.edits import Standing
from umbel_registry.fleet import Fleet, Held, Report

if TYPE_CHECKING:
    from redis import Redis


class VersionState(StrEnum):
    """What a version is at; see ``life_of`` for what decides."""

    REGISTERED = "registered"
    LOADING = "loading"
    READY = "ready"
    SERVING = "serving"
    RETIRED = "retired"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Place:
    """A version in one process of a worker.

    Attributes:
        worker: ``host:pid`` of the worker.
        process: ``host:pid`` of its process.
        held: what that has told.
    """

    worker: str
    process: str
    held: Held


@dataclass(frozen=True, slots=True)
class Life:
    """What a version is at.

    Attributes:
        model: name of the model.
        version: the version.
        state: what it is at.
        why: what made it so, in words; for a failed one what happened.
        share: the part of the jobs that it answers, between 0 and 1.
        shadow: the part of the jobs that it gets copies of.
        aliases: names that mean it.
        places: the processes that hold it, or try to.
    """

    model: str
    version: str
    state: VersionState
    why: str = ""
    share: float = 0.0
    shadow: float = 0.0
    aliases: tuple[str, ...] = ()
    places: tuple[Place, ...] = field(default=())


def lives(redis: Redis, namespace: str, standing: Standing) -> dict[str, Life]:
    """The life of all versions of a model, from lowest to highest version.

    Args:
        redis: a client.
        namespace: prefix of all keys.
        standing: of the model.
    """
    fleet = Fleet(redis, namespace)
    reports, failures = fleet.reports(), fleet.failures(standing.model)
    failed = {version: failure.error for version, failure in failures.items()}
    return {version: life_of(standing, version, reports, failed) for version in standing.manifests}


def life_of(
    standing: Standing, version: str, reports: list[Report], failed: dict[str, str]
) -> Life:
    """What a version is at.

    It is *retired* if it was withdrawn; *serving* if a worker has it loaded and jobs go to it, by
    the route or an alias;
    *ready* if a worker has it loaded; *loading* if one is at it; *failed* if the last try did not
    succeed; else *registered*.

    Args:
        standing: of the model.
        version: one of its versions.
        reports: of all processes.
        failed: why versions did not load when that was last tried.
    """
    traffic, route = standing.traffic, standing.route
    digest = standing.manifests[version].digest
    places = tuple(
        Place(report.worker, report.process, held)
        for report in reports
        if (held := report.of(standing.model, version)) and held.digest == digest
    )
    share = route.share(version) if route else 0.0
    names = tuple(sorted(name for name, meant in traffic.aliases.items() if meant == version))
    state, why = _state(standing, version, places, failed)
    return Life(
        model=standing.model,
        version=version,
        state=state,
        why=why,
        share=share,
        shadow=route.shadows.get(version, 0.0) if route else 0.0,
        aliases=names,
        places=places,
    )


def _state(
    standing: Standing, version: str, places: tuple[Place, ...], failed: dict[str, str]
) -> tuple[VersionState, str]:
    retirement = standing.traffic.retired.get(version)
    if retirement is not None:
        to = f" on {retirement.to}" if retirement.to else ""
        return VersionState.RETIRED, f"by {retirement.by}; what waits: {retirement.queued}{to}"
    states = {place.held.state for place in places}
    errors = [f"{place.worker}: {place.held.error}" for place in places if place.held.error]
    if "ready" in states:
        some = f"not on all workers: {errors[0]}" if errors else ""
        routed = standing.route is not None and version in standing.route.weights
        serves = routed or version in standing.traffic.aliases.values()
        return (VersionState.SERVING if serves else VersionState.READY), some
    if "loading" in states:
        return VersionState.LOADING, ""
    if errors or version in failed:
        return VersionState.FAILED, errors[0] if errors else failed[version]
    return VersionState.REGISTERED, ""
