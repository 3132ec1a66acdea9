"""Promotion: a version answers all jobs as soon as enough workers have it loaded, never before."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from umbel_config.errors import NotReady
from umbel_registry import edits
from umbel_registry.audit import Change
from umbel_registry.edits import Standing
from umbel_registry.fleet import RETRY_S, Fleet, Readiness
from umbel_registry.manifest import Manifest
from umbel_registry.traffic import Traffic
from umbel_registry.traffic_control import TrafficControl, forbid_canary

#: Seconds for which workers keep the version loaded after the wait for them was given up.
_SPARE_S = 60.0
#: Workers named in an error before the list is cut.
_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Patience:
    """How long to wait, for what, and by which clock; see ``promote``."""

    min_ready: float
    timeout_s: float
    pause_s: float
    clock: Callable[[], float]
    sleep: Callable[[float], None]
    on_wait: Callable[[Readiness], None]


def promote(
    control: TrafficControl,
    fleet: Fleet,
    model: str,
    version: str,
    *,
    alias: str | None = None,
    min_ready: float = 1.0,
    timeout_s: float = 300.0,
    now: bool = False,
    dry_run: bool = False,
    on_wait: Callable[[Readiness], None] | None = None,
    pause_s: float = 0.25,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Change:
    """Has workers load a version, waits until enough have, then gives it all jobs in one step.

    Whoever dies while waiting leaves everything as it was, but for the wish that workers load it.

    Args:
        control: of the routes.
        fleet: the workers.
        model: the model.
        version: the version, or an alias of it; that is read once, before the wait.
        alias: the alias to move; ``None``: the route, whose shadows stay.
        min_ready: the part of the batches that workers of its queue can run side by side, between
            0 and 1, that need not load it first.
        timeout_s: longest wait, in seconds.
        now: do not wait for anybody.
        dry_run: check and tell what would change, but leave everything as it is.
        on_wait: gets the readiness each time it was looked at; with ``dry_run`` once.
        pause_s: seconds between two looks.
        clock: seconds that only ever grow.
        sleep: waits for so many seconds.

    Returns:
        What changed; without ``changes`` where the version has all jobs already.

    Raises:
        ModelNotFound: no model of that name is registered.
        VersionNotFound: the model has no such version, or as ``VersionRetired`` it takes no jobs.
        NotReady: a worker could not load it, no worker serves its queue, or the time passed.
        CanaryUnderWay: a canary decides about the route.
        RouteInvalid: the alias has no name that one may have, or a shadow takes other inputs.
    """
    standing = control.read(model)
    chosen = standing.live(version)
    flip = _flip(chosen, alias)
    planned = control.change(model, "promote", flip, dry_run=True)
    tell = on_wait or (lambda _: None)
    if dry_run:
        tell(fleet.readiness(standing.manifests[chosen]))
    if dry_run or not planned.changes:
        return planned
    if now:
        return control.change(model, "promote", flip, why="without waiting for workers")
    patience = _Patience(
        min_ready=min_ready,
        timeout_s=timeout_s,
        pause_s=pause_s,
        clock=clock,
        sleep=sleep,
        on_wait=tell,
    )
    wished_s = (standing.traffic.wanted.get(chosen, 0) - standing.now_ms) / 1000
    control.want(model, chosen, max(wished_s, timeout_s + _SPARE_S))
    _await(fleet, standing.manifests[chosen], patience)
    return control.change(model, "promote", flip)


def _flip(version: str, alias: str | None) -> Callable[[Standing], Traffic]:
    """The edit that gives a version all jobs, or an alias to it."""

    def to_route(standing: Standing) -> Traffic:
        forbid_canary(standing)
        return edits.with_route(standing, {version: 1})

    def to_alias(standing: Standing) -> Traffic:
        return edits.with_aliases(standing, {str(alias): version})

    return to_route if alias is None else to_alias


def _await(fleet: Fleet, manifest: Manifest, patience: _Patience) -> None:
    """Returns once enough workers are ready.

    Raises:
        NotReady: that cannot be, or is not in time.
    """
    begun = patience.clock()
    until = begun + patience.timeout_s
    while True:
        readiness = fleet.readiness(manifest)
        patience.on_wait(readiness)
        if readiness.enough(patience.min_ready):
            return
        tried = patience.clock() >= begun + RETRY_S  # until then it may have failed before the wish
        if readiness.slots == 0 or (readiness.failed and tried):
            raise NotReady(_in_vain(manifest, readiness))
        if patience.clock() >= until:
            raise NotReady(_too_late(manifest, readiness, patience))
        patience.sleep(patience.pause_s)


def _in_vain(manifest: Manifest, readiness: Readiness) -> str:
    """Why no wait would help."""
    what = f"{manifest.name} {manifest.version} was not promoted"
    if readiness.slots == 0:
        return (
            f"{what}: no worker serves queue {manifest.queue}, so nobody could load it. Start one: "
            f"umbel worker --queues {manifest.queue}"
        )
    errors = dict.fromkeys(readiness.failed.values())
    whys = "; ".join(
        f"{_names([name for name, own in readiness.failed.items() if own == error])}: "
        f"{error.rstrip('.')}"
        for error in errors
    )
    return f"{what}, because it could not be loaded. {whys}. All jobs go where they went before."


def _too_late(manifest: Manifest, readiness: Readiness, patience: _Patience) -> str:
    """What was waited for, and who did not come."""
    return (
        f"{manifest.name} {manifest.version} was not promoted: after {patience.timeout_s:g} s "
        f"{readiness.ready} of {readiness.slots} worker slots have it loaded and warm, and "
        f"{100 * patience.min_ready:g} % of them were asked for. Not ready: "
        f"{_names(readiness.missing)}. All jobs go where they went before. Wait longer "
        "(--timeout), ask for less (--min-ready), or do not wait (--now)."
    )


def _names(workers: list[str] | tuple[str, ...]) -> str:
    more = len(workers) - _SHOWN
    return ", ".join(workers[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
