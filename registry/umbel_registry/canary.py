"""Canaries: begin one, stop one by hand, and drive them, in as many processes as there are."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from umbel_config.errors import ModelError, TrafficContended
from umbel_config.server import address_of
from umbel_config.store_errors import translate_errors
from umbel_registry.audit import Change
from umbel_registry.canary_edits import Plan, begun, moved_on, stopped
from umbel_registry.canary_evidence import CanaryEyes
from umbel_registry.canary_step import decide
from umbel_registry.catalog import Catalog
from umbel_registry.edits import Standing
from umbel_registry.keys import traffic_key
from umbel_registry.traffic import Traffic
from umbel_registry.traffic_control import TrafficControl, forbid_canary

if TYPE_CHECKING:
    from redis import Redis

log = logging.getLogger("umbel.canary")

#: Jobs that each step waits for at least, and seconds that workers have for loading the version.
MIN_JOBS: Final = 50
WARM_S: Final = 300.0
#: Who drives canaries, in the audit trail.
WHO: Final = "canary"
_UNDER_WAY: Final = frozenset({"warming", "stepping"})


def begin(
    control: TrafficControl,
    model: str,
    version: str,
    *,
    steps: Sequence[float],
    every_s: float,
    max_error_rate: float,
    max_p95_ms: float | None = None,
    min_jobs: int = MIN_JOBS,
    warm_s: float = WARM_S,
    dry_run: bool = False,
) -> Change:
    """Has workers load a version, which then gets ever more of the jobs as long as it does well.

    From then on the workers themselves drive it, whichever of them live; see ``CanaryDriver``. The
    route changes with the first step, when all workers have the version loaded and warm.

    Args:
        control: of the routes.
        model: the model.
        version: the version, or an alias of it.
        steps: percent of the jobs that it gets, step by step, rising; where the last one is below
            100, it stays at that.
        every_s: seconds that each step lasts at least.
        max_error_rate: highest share of its jobs that may fail, between 0 and 1.
        max_p95_ms: highest 95th percentile of its latency, from arrival to result, in ms.
        min_jobs: jobs of the version that each step waits for at least.
        warm_s: seconds that workers have to load it before the first step.
        dry_run: check and tell what would change, but leave everything as it is.

    Returns:
        What changed.

    Raises:
        ModelNotFound: no model of that name is registered.
        VersionNotFound: the model has no such version, or as ``VersionRetired`` it takes no jobs.
        CanaryUnderWay: there is one already.
        RouteInvalid: a step or limit makes no sense, there is no other version to begin from, or
            they take different inputs.
    """
    plan = Plan(
        steps=tuple(float(step) for step in steps),
        every_s=float(every_s),
        min_jobs=min_jobs,
        max_error_rate=max_error_rate,
        max_p95_ms=max_p95_ms,
        warm_s=float(warm_s),
    )

    def edit(now: Standing) -> Traffic:
        forbid_canary(now)
        return begun(now, version, plan, control.who)

    return control.change(model, "canary", edit, dry_run=dry_run)


def stop(
    control: TrafficControl, model: str, *, promote: bool = False, dry_run: bool = False
) -> Change:
    """Ends the canary under way by hand; jobs go where they went before it.

    Args:
        control: of the routes.
        model: the model.
        promote: give all jobs to its version instead.
        dry_run: check and tell what would change, but leave everything as it is.

    Returns:
        What changed.

    Raises:
        ModelNotFound: no model of that name is registered.
        NothingToRollBack: none is under way.
        NotReady: its version is to get all jobs, and workers have not loaded it yet.
    """
    what = "canary promote" if promote else "canary stop"
    return control.change(model, what, lambda now: stopped(now, promote=promote), dry_run=dry_run)


class _Canary(msgspec.Struct):
    state: str = "warming"  # as in Canary: a default is not stored


class _Peek(msgspec.Struct):
    """As much of a model's traffic as tells whether a canary is under way."""

    canary: _Canary | None = None


class CanaryDriver:
    """Looks at all canaries under way and moves each on when it is time.

    Nothing is kept here that a canary needs: what it is at stands in Redis and is changed by
    compare-and-set, so any process may go on where another one died, and if two decide at once the
    second one changes nothing.

    Args:
        redis: a client whose replies are bytes.
        namespace: prefix of all keys, the ``namespace`` setting.
        clock: seconds that only ever grow.
    """

    def __init__(
        self,
        redis: Redis,
        namespace: str = "umbel",
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis, self._namespace = redis, namespace
        self._control = TrafficControl(redis, namespace, who=WHO)
        self._catalog = Catalog(redis, namespace)
        self._eyes = CanaryEyes(redis, namespace, clock)
        self._translated = translate_errors(address_of(redis))
        self._revision = -1
        self._models: list[str] = []

    def turn(self) -> int:
        """Decides about each canary once; one read of Redis where none is under way.

        Returns:
            How many moved, by this process.

        Raises:
            StoreUnavailable: Redis cannot be reached; the next turn goes on.
        """
        moved = 0
        for model in self._under_way():
            try:
                moved += self._advance(model)
            except TrafficContended:  # somebody else moves it just now
                continue
            except ModelError as error:
                log.warning("the canary of %s cannot go on: %s", model, error)
        return moved

    def _under_way(self) -> list[str]:
        """The models that have one, looked up anew whenever anything was changed."""
        revision = self._catalog.revision()
        if revision != self._revision:
            self._models, self._revision = self._look_up(), revision
        return self._models

    def _look_up(self) -> list[str]:
        names = self._catalog.names()
        pipe = self._redis.pipeline(transaction=False)
        for name in names:
            pipe.hget(traffic_key(self._namespace, name), "state")
        with self._translated:
            states = pipe.execute()
        return [name for name, state in zip(names, states, strict=True) if _has_canary(state)]

    def _advance(self, model: str) -> bool:
        standing = self._control.read(model)
        canary = standing.traffic.canary
        if canary is None or not canary.under_way:
            return False
        seen = self._eyes.look(standing, canary)
        decision = decide(canary, standing.now_ms, seen.readiness, seen.evidence)
        if decision.action == "wait" and decision.reason == canary.reason:
            return False
        change = self._control.change(
            model,
            f"canary {decision.action.replace('_', ' ')}",
            lambda now: moved_on(now, standing, decision, seen.counts),
            why=decision.reason,
        )
        if change.changes:
            log.info(
                "canary of %s %s: %s, because %s",
                *(model, canary.version, decision.action.replace("_", " "), decision.reason),
            )
        return bool(change.changes)


def _has_canary(state: bytes | None) -> bool:
    try:
        canary = msgspec.json.decode(state, type=_Peek).canary if state else None
    except msgspec.MsgspecError:  # of another release; whoever reads all of it says so
        return False
    return canary is not None and canary.state in _UNDER_WAY
