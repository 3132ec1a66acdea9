"""What a canary changes about a model's traffic: each verb gives the state that follows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from umbel_config.errors import NothingToRollBack, NotReady, RouteInvalid
from umbel_registry import edits
from umbel_registry.canary_step import Decision, LaneCounts
from umbel_registry.edits import Standing
from umbel_registry.route import Route
from umbel_registry.traffic import Canary, CanaryState, Traffic

WHOLE: Final = 100.0
BY_HAND: Final = "by hand"
#: Milliseconds for which workers keep the version beyond the time they have for loading it, so that
#: a driver that looks late still finds it loaded.
_SPARE_MS: Final = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a canary is asked to do; see ``Canary``."""

    steps: tuple[float, ...]
    every_s: float
    min_jobs: int
    max_error_rate: float
    max_p95_ms: float | None
    warm_s: float


def weights_at(before: dict[str, float], version: str, percent: float) -> dict[str, float]:
    """The weights of a step: the others share what the version leaves as they shared it before.

    Args:
        before: weights of the route that the canary began from.
        version: the canary's version.
        percent: what it gets.
    """
    if percent >= WHOLE:
        return {version: 1.0}
    others = {name: weight for name, weight in before.items() if name != version}
    total = sum(others.values())
    left = {name: weight / total * (WHOLE - percent) for name, weight in others.items()}
    return {**left, version: percent}


def begun(standing: Standing, word: str, plan: Plan, by: str) -> Traffic:
    """Begins a canary: workers are asked to load its version, and all jobs go where they went.

    A route that nobody has set is set to what it is, so that no version that is pushed meanwhile
    takes its place.

    Args:
        standing: of the model, which has no canary under way.
        word: the version, or an alias of it.
        plan: the steps and limits.
        by: who begins it.

    Raises:
        VersionNotFound: the model has no such version, or as ``VersionRetired`` it takes no jobs.
        RouteInvalid: a step or limit makes no sense, there is no other version to begin from, or
            they take different inputs.
    """
    version = standing.live(word)
    _check(standing, plan)
    before = _begin_from(standing, version, plan)
    edits.with_route(standing, weights_at(before.weights, version, plan.steps[0]))  # may raise
    traffic = standing.traffic
    if traffic.route is None:
        pinned = edits.with_route(standing, before.weights)
        traffic = pinned.model_copy(update={"earlier": traffic.earlier})
    canary = Canary(
        version=version,
        since_ms=standing.now_ms,
        started_ms=standing.now_ms,
        by=by,
        before=before.weights,
        shadows=before.shadows,
        route=traffic.number_in_force,
        **dataclasses.asdict(plan),
    )
    until = standing.now_ms + round(plan.warm_s * 1000) + _SPARE_MS
    wanted = edits.wanting(standing, version, until).wanted
    return traffic.model_copy(update={"canary": canary, "wanted": wanted})


def moved_on(
    standing: Standing, seen: Standing, decision: Decision, counters: LaneCounts
) -> Traffic:
    """Does what was decided, unless the canary is not any more where it was when that was decided.

    So whoever else has decided about the same step meanwhile, this changes nothing.

    Args:
        standing: of the model, now.
        seen: of the model, when the decision was made; its canary was under way.
        decision: what to do.
        counters: of the version's lane, when the decision was made.
    """
    canary, then = standing.traffic.canary, seen.traffic.canary
    if canary is None or then is None or _moment(canary) != _moment(then):
        return standing.traffic
    if standing.traffic.number_in_force != seen.traffic.number_in_force:
        return standing.traffic
    match decision.action:
        case "wait":
            waiting = canary.model_copy(update={"reason": decision.reason})
            return standing.traffic.model_copy(update={"canary": waiting})
        case "step":
            return _stepped(standing, canary, counters)
        case "promote":
            return promoted(standing, canary, decision.reason)
        case "hold":
            return _ended(standing.traffic, canary, "stopped", decision.reason)
        case "roll_back":
            return returned(standing, canary, "rolled_back", decision.reason)


def returned(standing: Standing, canary: Canary, state: CanaryState, reason: str) -> Traffic:
    """Ends a canary, and returns to the route that it began from, key by key.

    Args:
        standing: of the model.
        canary: the one under way.
        state: how it ends.
        reason: why.
    """
    back = edits.returned(standing, canary.before, canary.shadows)
    wanted = {name: until for name, until in back.wanted.items() if name != canary.version}
    return _ended(back.model_copy(update={"wanted": wanted}), canary, state, reason)


def promoted(standing: Standing, canary: Canary, reason: str) -> Traffic:
    """Ends a canary with all jobs on its version.

    Args:
        standing: of the model.
        canary: the one under way.
        reason: why.
    """
    traffic = _routed(standing, canary, {canary.version: 1.0})
    return _ended(traffic, canary, "promoted", reason)


def stopped(standing: Standing, *, promote: bool) -> Traffic:
    """Ends the canary under way by hand.

    Args:
        standing: of the model.
        promote: whether its version gets all jobs; else the route before comes back.

    Raises:
        NothingToRollBack: there is none.
        NotReady: the version is to get all jobs, and workers have not loaded it yet.
    """
    canary = standing.traffic.canary
    if canary is None or not canary.under_way:
        raise NothingToRollBack(
            f"No canary of {standing.model} is under way, so there is nothing to stop. Begin one: "
            f"umbel models canary {standing.model} VERSION"
        )
    if not promote:
        return returned(standing, canary, "stopped", BY_HAND)
    if canary.state == "warming":
        raise NotReady(
            f"{standing.model} {canary.version} is not loaded on all workers yet, so it cannot get "
            "all jobs. Wait for the first step, or stop the canary without --promote."
        )
    return promoted(standing, canary, BY_HAND)


def _moment(canary: Canary) -> tuple[Any, ...]:
    """What no two moments of any canaries of a model have in common."""
    return canary.started_ms, canary.version, canary.state, canary.step, canary.since_ms


def _stepped(standing: Standing, canary: Canary, counters: LaneCounts) -> Traffic:
    step = canary.step + 1
    weights = weights_at(canary.before, canary.version, canary.steps[step])
    after = canary.model_copy(
        update={
            "state": "stepping",
            "step": step,
            "since_ms": standing.now_ms,
            "counters": dataclasses.asdict(counters),
            "reason": "",
        }
    )
    return _routed(standing, canary, weights).model_copy(update={"canary": after})


def _routed(standing: Standing, canary: Canary, weights: dict[str, float]) -> Traffic:
    """Another route, with none of the canary's own steps among those to return to."""
    traffic = edits.with_route(standing, weights)
    earlier = tuple(each for each in traffic.earlier if each.number <= canary.route)
    return traffic.model_copy(update={"earlier": earlier})


def _ended(traffic: Traffic, canary: Canary, state: CanaryState, reason: str) -> Traffic:
    ended = canary.model_copy(update={"state": state, "reason": reason})
    return traffic.model_copy(update={"canary": ended})


def _begin_from(standing: Standing, version: str, plan: Plan) -> Route:
    """The route in force, in which the version has less than at the first step."""
    route, model = standing.route, standing.model
    if route is None or {*route.weights} == {version}:
        raise RouteInvalid(
            f"{model} {version} gets all jobs already, so a canary could not give it more. Give "
            f"them to another version first: umbel models route {model} VERSION=100"
        )
    share = WHOLE * route.share(version)
    if share >= plan.steps[0]:
        raise RouteInvalid(
            f"{model} {version} gets {share:.3g} % of the jobs already. Begin with a step above "
            "that."
        )
    return route


def _check(standing: Standing, plan: Plan) -> None:
    kept = {
        "its steps are percents that rise, from above 0 to 100 at most, as in 1,5,25,100": _rising(
            plan.steps
        ),
        "each step takes a time above 0": 0 < plan.every_s < math.inf,
        "workers need a time above 0 to load it": 0 < plan.warm_s < math.inf,
        "each step waits for at least one job": plan.min_jobs >= 1,
        "the share of jobs that may fail is from 0 to below 1": 0 <= plan.max_error_rate < 1,
        "the highest p95 is above 0 ms": plan.max_p95_ms is None or 0 < plan.max_p95_ms < math.inf,
    }
    broken = [rule for rule, is_kept in kept.items() if not is_kept]
    if broken:
        raise RouteInvalid(f"A canary of {standing.model} cannot be that: {', and '.join(broken)}.")


def _rising(steps: Sequence[float]) -> bool:
    rising = all(low < high for low, high in pairwise((0.0, *steps)))
    return bool(steps) and rising and steps[-1] <= WHOLE
