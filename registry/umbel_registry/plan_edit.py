"""The traffic that ``models.yaml`` wants of a model, as one edit of how it stands."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from umbel_config.errors import VersionNotFound
from umbel_registry import edits
from umbel_registry.edits import Standing
from umbel_registry.plan_file import ModelPlan
from umbel_registry.resolve import listing
from umbel_registry.traffic import Traffic
from umbel_registry.traffic_control import forbid_canary


def wanted_traffic(standing: Standing, wanted: ModelPlan, by: str) -> Traffic:
    """The traffic of a model as a file wants it; sections that are not there stay as they are.

    Args:
        standing: of the model.
        wanted: what the file says of it.
        by: who does it.

    Raises:
        CanaryUnderWay: a canary decides about the route, of which the file says something.
        VersionNotFound: the model has no such version, or as ``VersionRetired`` it takes no jobs.
        VersionInUse: a version to retire is still pointed to.
        RouteInvalid: versions that share a route take other inputs, or an alias has no good name.
        PolicyInvalid: a batching policy is out of range.
    """
    for step in (brought_back, _aliased, _routed, _governed):
        standing = replace(standing, traffic=step(standing, wanted))
    return _retired(standing, wanted, by)


def brought_back(standing: Standing, wanted: ModelPlan) -> Traffic:
    """The traffic without those retirements that the file does not name.

    Args:
        standing: of the model.
        wanted: what the file says of it.
    """
    if wanted.retired is None:
        return standing.traffic
    kept = {name: each for name, each in standing.traffic.retired.items() if name in wanted.retired}
    return standing.traffic.model_copy(update={"retired": kept})


def _aliased(standing: Standing, wanted: ModelPlan) -> Traffic:
    if wanted.aliases is None:
        return standing.traffic
    _check_known(standing, wanted.aliases.values())
    others = dict.fromkeys(standing.traffic.aliases)
    return edits.with_aliases(standing, {**others, **wanted.aliases})


def _routed(standing: Standing, wanted: ModelPlan) -> Traffic:
    if wanted.route is None:
        return standing.traffic
    forbid_canary(standing)
    _check_known(standing, (*wanted.route, *(wanted.shadows or ())))
    return edits.with_route(standing, wanted.route, wanted.shadows)


def _governed(standing: Standing, wanted: ModelPlan) -> Traffic:
    if wanted.batching is None:
        return standing.traffic
    _check_known(standing, wanted.batching)
    for version in (*standing.traffic.policies, *wanted.batching):
        standing = replace(standing, traffic=edits.with_policy(standing, version, None))
    for version in wanted.batching:
        changes = wanted.policy_of(version)
        standing = replace(standing, traffic=edits.with_policy(standing, version, changes))
    return standing.traffic


def _retired(standing: Standing, wanted: ModelPlan, by: str) -> Traffic:
    late = {
        version: withdrawal
        for version, withdrawal in (wanted.retired or {}).items()
        if not _is_retired(standing, version, wanted)
    }
    _check_known(standing, late)
    for version in late:  # all of them first: what waits for one is not to go to another one
        traffic = edits.with_retired(standing, version, queued="finish", by=by)
        standing = replace(standing, traffic=traffic)
    for version, withdrawal in late.items():
        traffic = edits.with_retired(
            standing, version, queued=withdrawal.queued, by=by, to=withdrawal.to
        )
        standing = replace(standing, traffic=traffic)
    return standing.traffic


def _is_retired(standing: Standing, version: str, wanted: ModelPlan) -> bool:
    """Whether it is withdrawn already, in the way that is wanted."""
    known, withdrawals = standing.traffic.retired.get(version), wanted.retired or {}
    if known is None or known.queued != withdrawals[version].queued or known.to in withdrawals:
        return False
    return withdrawals[version].to in (None, known.to)


def _check_known(standing: Standing, versions: Iterable[str]) -> None:
    for version in versions:
        if version not in standing.manifests:
            raise VersionNotFound(
                f"models.{standing.model}: version {version!r} is not registered. Name its folder "
                f"under versions:, or push it. "
                f"{listing('There are', [*standing.manifests], version)}"
            )
