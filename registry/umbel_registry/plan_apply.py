"""Makes models stand as ``models.yaml`` says: pushes what is missing, then one change a model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from umbel_config.errors import ModelError, NotReady
from umbel_registry import edits
from umbel_registry.edits import Standing
from umbel_registry.fleet import RETRY_S, Fleet, Readiness
from umbel_registry.manifest import Manifest
from umbel_registry.plan import ModelSteps, Plan
from umbel_registry.plan_edit import wanted_traffic
from umbel_registry.traffic import Traffic
from umbel_registry.traffic_control import TrafficControl

if TYPE_CHECKING:
    from umbel_registry.artifacts import ArtifactStore
    from umbel_registry.catalog import Catalog

#: The verb of the audit trail.
WHAT = "apply"
#: Seconds for which workers keep versions loaded after the wait for them was given up.
_SPARE_S = 60.0
#: A share that grows by less has not grown.
_NO_MORE = 1e-9


def _told_nobody(*_: object) -> None:
    """For those who are not interested."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hands:
    """What it takes to carry out a plan.

    Attributes:
        catalog: where versions become known.
        store: where their files are kept.
        control: of the routes.
        fleet: the workers.
        allowed_modules: modules that factories and handlers may come from.
        device: where models are tried out before they are registered.
        why: for the audit trail.
        now: do not wait for workers.
        timeout_s: longest wait for them, in seconds, for all models together.
        pause_s: seconds between two looks at them.
        on_push: told each version that was registered.
        on_wait: told what is waited for, and how far it is.
        on_done: told each model that stands as it should.
        clock: seconds that only ever grow.
        sleep: waits for so many seconds.
    """

    catalog: Catalog
    store: ArtifactStore
    control: TrafficControl
    fleet: Fleet
    allowed_modules: tuple[str, ...] = ()
    device: str = "cpu"
    why: str = ""
    now: bool = False
    timeout_s: float = 300.0
    pause_s: float = 0.25
    on_push: Callable[[Manifest], None] = _told_nobody
    on_wait: Callable[[Manifest, Readiness], None] = _told_nobody
    on_done: Callable[[str], None] = _told_nobody
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def apply(plan: Plan, hands: Hands) -> dict[str, ModelError]:
    """Carries out a plan: all pushes first, then one change for each model.

    What moved since the plan was made is looked at anew; the models end as the file says. A model
    changes once workers have all versions loaded that gain jobs by its route or by an alias that
    moves. That wait is left out for a model that is new, and where no worker lives and the model
    has had no route yet.

    Args:
        plan: of ``plan()``; models with a problem are left out.
        hands: what it takes.

    Returns:
        Why models are not as they should be, by name, the problems of the plan among them; the
        others are.

    Raises:
        StoreUnavailable: Redis went away; the same apply goes on where this one ended.
    """
    problems = dict(plan.problems)
    until = hands.clock() + hands.timeout_s

    def each(work: Callable[[ModelSteps], None]) -> None:
        for steps in plan.models:
            if steps.steps and steps.model not in problems:
                try:
                    work(steps)
                except ModelError as error:
                    problems[steps.model] = error

    each(lambda steps: _push(steps, hands))
    each(lambda steps: _ask(steps, hands))  # all load side by side
    each(lambda steps: _change(steps, hands, until))
    return problems


def _push(steps: ModelSteps, hands: Hands) -> None:
    """Registers what is missing, while the version that answers goes on to do so."""
    if steps.hold is not None:
        hold = steps.hold
        why = "it answers on while other versions come in"
        hands.control.change(steps.model, WHAT, lambda now: _held(now, hold), why=why)
    for each in steps.pushes:
        from umbel_registry.push import push  # noqa: PLC0415  (loads torch)

        manifest = push(
            each.source.folder,
            catalog=hands.catalog,
            store=hands.store,
            version=each.manifest.version,
            allowed_modules=hands.allowed_modules,
            device=hands.device,
            accept_batch_variance=each.source.accept_batch_variance,
        )
        hands.on_push(manifest)


def _held(standing: Standing, version: str) -> Traffic:
    if standing.traffic.route is not None:
        return standing.traffic
    return edits.with_route(standing, {version: 1})


def _ask(steps: ModelSteps, hands: Hands) -> None:
    """Has workers load what gains jobs; a version that is retired is brought back for that."""
    gaining = _gaining(steps, hands)
    if not gaining:
        return

    def edit(standing: Standing) -> Traffic:
        until = standing.now_ms + round((hands.timeout_s + _SPARE_S) * 1000)
        for version in gaining:
            back = replace(standing, traffic=edits.without_retired(standing, version))
            standing = replace(back, traffic=edits.wanting(back, version, until))
        return standing.traffic

    hands.control.change(steps.model, WHAT, edit, why="so that workers can load it")


def _change(steps: ModelSteps, hands: Hands, until: float) -> None:
    gaining = _gaining(steps, hands)
    if gaining:
        manifests = hands.control.read(steps.model).manifests
        needed = [manifests[version] for version in gaining]
        _await(needed, hands, until, lenient=steps.unrouted)
    hands.control.change(
        steps.model,
        WHAT,
        lambda now: wanted_traffic(now, steps.wanted, hands.control.who),
        why=hands.why,
    )
    hands.on_done(steps.model)


def _gaining(steps: ModelSteps, hands: Hands) -> list[str]:
    """The versions that get jobs which go to another one now, by the route or an alias."""
    if steps.new or hands.now:
        return []
    standing = hands.control.read(steps.model)
    after = wanted_traffic(standing, steps.wanted, hands.control.who)
    aliases = standing.traffic.aliases
    moved = [word for name, word in after.aliases.items() if aliases.get(name, word) != word]
    before, route = standing.route, after.route
    if before is None or route is None:
        return moved
    more = [name for name in route.versions if route.share(name) > before.share(name) + _NO_MORE]
    return [*dict.fromkeys((*more, *moved))]


def _await(needed: Iterable[Manifest], hands: Hands, until: float, *, lenient: bool) -> None:
    """Returns once all workers are ready for all of the versions.

    Raises:
        NotReady: that cannot be, or is not in time.
    """
    begun = hands.clock()
    for manifest in needed:
        while True:
            readiness = hands.fleet.readiness(manifest)
            if readiness.enough(1.0) or (lenient and not readiness.slots):
                break
            late = hands.clock() >= until
            # Until then workers may not have tried again what failed before the wish.
            tried = late or hands.clock() >= begun + RETRY_S
            if late or (readiness.failed and tried) or not readiness.slots:
                raise NotReady(_why_not(manifest, readiness, hands.timeout_s))
            hands.on_wait(manifest, readiness)
            hands.sleep(hands.pause_s)


def _why_not(manifest: Manifest, readiness: Readiness, timeout_s: float) -> str:
    what = f"{manifest.name} was not changed"
    if not readiness.slots:
        return (
            f"{what}: no worker serves queue {manifest.queue}, so nobody could load version "
            f"{manifest.version}. Start one, or do not wait: --now"
        )
    if readiness.failed:
        worker, error = next(iter(readiness.failed.items()))
        return f"{what}: version {manifest.version} could not be loaded on {worker}: {error}"
    return (
        f"{what}: after {timeout_s:g} s workers can run {readiness.ready} of {readiness.slots} "
        f"batches of version {manifest.version} without loading it first. Not ready: "
        f"{', '.join(readiness.missing)}. Wait longer (--timeout), or do not wait (--now)."
    )
