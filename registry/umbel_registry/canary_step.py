"""What a canary does next: wait, go on to the next step, end well, or roll back and say why."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, field
from typing import Final, Literal

from umbel_registry.figures import Figures
from umbel_registry.fleet import Readiness
from umbel_registry.intervals import Bounds, newcombe, square_and_add, wilson
from umbel_registry.traffic import Canary

Action = Literal["wait", "step", "promote", "hold", "roll_back"]

#: Jobs below which nothing measured decides, unless all of them failed.
LEAST_JOBS: Final = 20
#: Failures, each for itself, below which none of them decides: two. What one batch has in common is
#: one; how many there were is an estimate, so it need not be quite two.
LEAST_FAILURES: Final = 1.5
#: Jobs that suffice where every one failed.
LEAST_ALL_FAILED: Final = 5
#: Batches below which no latency decides: all jobs of one end together.
LEAST_BATCHES: Final = 5
#: Times the length of a step that it may last while it is neither good nor surely bad.
LONGEST: Final = 10
#: Seconds without an outcome that a lane with jobs in it has at least.
SILENCE_S: Final = 30.0
#: The quantile of the latency that has a limit.
QUANTILE: Final = 0.95

_HOLDS: Final = "holds at "
_NOBODY: Final = "no live worker serves its queue"


@dataclass(frozen=True, slots=True)
class LaneCounts:
    """Counters of a lane; they begin with its first job.

    Attributes:
        succeeded: jobs with a result.
        failed: jobs that failed, also those that were lost with their worker too often.
        expired: jobs that were too late for their deadline.
        shared: jobs that got the outcome of an identical one; no worker measures those.
        leases_lost: batches whose worker was lost.
    """

    succeeded: int = 0
    failed: int = 0
    expired: int = 0
    shared: int = 0
    leases_lost: int = 0

    def since(self, before: LaneCounts) -> LaneCounts:
        """What came to them; a counter that fell, because a job was replayed, counts as 0.

        Args:
            before: as they were.
        """
        pairs = zip(astuple(self), astuple(before), strict=True)
        return LaneCounts(*(max(0, now - then) for now, then in pairs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of a canary's version at one step.

    Attributes:
        own: what workers measured of it under the route in force; each step has its own.
        others: what they measured of all other versions of the route, together.
        lane: counters of its lane since the step began.
        waiting: jobs that wait in its lane.
        running: batches of them that run.
        oldest_ms: how long ago the oldest of those jobs arrived, in ms.
        silent_ms: for how long whoever looks has seen jobs there and none end, in ms.
    """

    own: Figures = field(default_factory=Figures)
    others: Figures = field(default_factory=Figures)
    lane: LaneCounts = field(default_factory=LaneCounts)
    waiting: int = 0
    running: int = 0
    oldest_ms: int = 0
    silent_ms: int = 0

    @property
    def count(self) -> Count:
        """Jobs that ended in this step, with those that no worker could measure.

        A job that expired, or was lost with its worker time after time, failed as far as its caller
        can tell. Where workers measure less than half of what the lane counts, because they are of
        an older release, the lane alone is believed.
        """
        own, lane = self.own, self.lane
        if 2 * own.jobs < lane.succeeded + lane.failed - lane.shared:
            failed = lane.failed + lane.expired
            return Count(failed, lane.succeeded + failed, float(lane.succeeded + failed))
        lost = max(0, lane.failed - own.failed) if lane.leases_lost else 0
        unseen = lane.expired + lost
        return Count(own.failed + unseen, own.jobs + unseen, own.independent_jobs() + unseen)


@dataclass(frozen=True, slots=True)
class Count:
    """Jobs that ended.

    Attributes:
        failed: how many of them failed.
        jobs: how many there were.
        independent: how many jobs that fail each for itself would tell as much.
    """

    failed: int
    jobs: int
    independent: float

    @property
    def rate(self) -> float:
        """The share that failed."""
        return self.failed / self.jobs if self.jobs else 0.0

    @property
    def bounds(self) -> Bounds:
        """Where the true share lies."""
        return wilson(self.rate * self.independent, self.independent)

    @property
    def enough(self) -> bool:
        """Whether that may decide against a version."""
        failures = self.rate * self.independent
        some = self.jobs >= LEAST_JOBS and failures >= LEAST_FAILURES
        return some or self.failed == self.jobs >= LEAST_ALL_FAILED


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done.

    Attributes:
        action: ``hold`` ends a canary whose last step is below 100 %.
        reason: why, with figures; of ``wait`` without any, so that it changes rarely.
    """

    action: Action
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Judged:
    """One limit: whether it is kept, and what is said if not.

    Attributes:
        verdict: ``open`` where it is not kept, but it is not sure that the version is to blame.
        words: what was measured and what is allowed.
        waits: what a wait for it is called.
    """

    verdict: Literal["kept", "open", "broken"]
    words: str = ""
    waits: str = ""


def decide(canary: Canary, now_ms: int, readiness: Readiness, evidence: Evidence) -> Decision:
    """What a canary does next; depends on nothing but its arguments.

    Args:
        canary: one that is under way.
        now_ms: the time, by the clock of Redis.
        readiness: of the workers of its version's queue.
        evidence: what is known of its version at this step.
    """
    elapsed_s = max(0, now_ms - canary.since_ms) / 1000
    if canary.state == "warming":
        return _warming(canary, elapsed_s, readiness)
    return _stepping(canary, elapsed_s, readiness, evidence)


def summary(evidence: Evidence) -> str:
    """What was measured of a version, in a few words.

    Args:
        evidence: of its step.
    """
    count = evidence.count
    failed = f"{count.failed:,} of {count.jobs:,} jobs failed" if count.jobs else "no job yet"
    p95 = evidence.own.latency.quantile(QUANTILE)
    return failed if p95 is None else f"{failed}, p95 {_ms(p95)}"


def holds(canary: Canary) -> bool:
    """Whether a canary ended well at a last step below 100 %, where its version stays."""
    return canary.state == "stopped" and canary.reason.startswith(_HOLDS)


def _warming(canary: Canary, elapsed_s: float, readiness: Readiness) -> Decision:
    if readiness.enough(1.0):
        return Decision("step", f"loaded and warm on all {readiness.slots} slots of its workers")
    if readiness.failed:
        worker, error = next(iter(sorted(readiness.failed.items())))
        return Decision("roll_back", f"could not be loaded on {worker}: {error.rstrip('.')}")
    nobody = readiness.slots == 0
    if elapsed_s < canary.warm_s:
        return Decision("wait", _NOBODY if nobody else "is being loaded")
    late = f"not loaded on all workers in {_length(canary.warm_s)}"
    if nobody:
        return Decision("roll_back", f"{late}: {_NOBODY}")
    first, *more = readiness.missing or ("?",)
    others = f" and {len(more)} more" if more else ""
    ready = f"{readiness.ready} of {readiness.slots} slots ready"
    return Decision("roll_back", f"{late}: {ready}, not so {first}{others}")


def _stepping(
    canary: Canary, elapsed_s: float, readiness: Readiness, evidence: Evidence
) -> Decision:
    at, judged = f"at {canary.percent:g} %: ", _judged(canary, evidence)
    broken = [each for each in judged if each.verdict == "broken"]
    if broken:
        return Decision("roll_back", at + broken[0].words)
    silent_s = min(evidence.silent_ms / 1000, evidence.oldest_ms / 1000, elapsed_s)
    if silent_s > max(canary.every_s, SILENCE_S):
        if not readiness.slots:
            return Decision("wait", _NOBODY)
        there = f"jobs waiting: {evidence.waiting:,}, batches running: {evidence.running:,}"
        return Decision("roll_back", f"{at}no job of it ended in {_length(silent_s)}; {there}")
    if elapsed_s < canary.every_s:
        return Decision("wait")
    jobs = evidence.count.jobs
    if jobs < canary.min_jobs:
        return Decision("wait", _too_few(canary, jobs, evidence))
    unsure = [each for each in judged if each.verdict == "open"]
    if unsure and elapsed_s < LONGEST * canary.every_s:
        return Decision("wait", unsure[0].waits)
    if unsure:
        late = f"not better after {_length(elapsed_s)}: {unsure[0].words}"
        return Decision("roll_back", at + late)
    return _onward(canary, at + summary(evidence))


def _onward(canary: Canary, reason: str) -> Decision:
    if canary.step + 1 < len(canary.steps):
        return Decision("step", reason)
    if canary.percent < 100:  # noqa: PLR2004
        return Decision("hold", f"{_HOLDS}{canary.percent:g} % as asked; {reason}")
    return Decision("promote", reason)


def _too_few(canary: Canary, jobs: int, evidence: Evidence) -> str:
    if jobs:
        return f"waits until {canary.min_jobs:,} of its jobs have ended"
    some = evidence.waiting or evidence.running
    return "its first job has not ended yet" if some else "no job has come to it yet"


def _judged(canary: Canary, evidence: Evidence) -> list[_Judged]:
    limit = canary.max_p95_ms
    errors = _errors(canary.max_error_rate, evidence)
    return [errors] if limit is None else [errors, _latency(limit, evidence)]


def _errors(limit: float, evidence: Evidence) -> _Judged:
    own, base = evidence.count, _measured(evidence.others)
    if own.rate <= limit:
        return _Judged("kept")
    sure = f", with 95 % confidence at least {_percent(own.bounds.low)}"
    words = (
        f"{own.failed:,} of {own.jobs:,} jobs failed, {_percent(own.rate)}"
        f"{sure if own.bounds.low > limit else ''}; the limit is {_percent(limit)}"
    )
    if base.jobs:
        words += f"; of the other versions {_percent(base.rate)} failed"
    if not own.enough or own.bounds.low <= limit:
        return _Judged("open", words, "more fail than are allowed, but too few to be sure")
    gap = newcombe(
        own.rate * own.independent, own.independent, base.rate * base.independent, base.independent
    )
    if base.enough and base.bounds.low > limit and gap.low <= 0:
        return _Judged("open", words, "more fail than are allowed, of the other versions as well")
    return _Judged("broken", words)


def _measured(figures: Figures) -> Count:
    return Count(figures.failed, figures.jobs, figures.independent_jobs())


def _latency(limit: float, evidence: Evidence) -> _Judged:
    own, base = evidence.own, evidence.others
    value, bounds = _p95(own)
    if value is None:
        words = "no worker tells how long its jobs took"
        return _Judged("open", words, words)
    if value <= limit:
        return _Judged("kept")
    sure = f", with 95 % confidence at least {_ms(bounds.low)}"
    words = (
        f"p95 of {own.latency.total:,} jobs is {_ms(value)}{sure if bounds.low > limit else ''}; "
        f"the limit is {_ms(limit)}"
    )
    other, theirs = _p95(base)
    if other is not None:
        words += f"; of the other versions it is {_ms(other)}"
    if not _enough(own) or bounds.low <= limit:
        return _Judged("open", words, "its p95 is more than is allowed, but that is not sure yet")
    if other is not None and _enough(base) and theirs.low > limit:
        gap = square_and_add(value, bounds, other, theirs)
        if gap.low <= 0:
            both = "its p95 is more than is allowed, of the other versions as well"
            return _Judged("open", words, both)
    return _Judged("broken", words)


def _p95(figures: Figures) -> tuple[float | None, Bounds]:
    bounds = figures.latency.quantile_interval(QUANTILE, independent=figures.batches)
    return figures.latency.quantile(QUANTILE), bounds


def _enough(figures: Figures) -> bool:
    return figures.latency.total >= LEAST_JOBS and figures.batches >= LEAST_BATCHES


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _ms(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 100 or math.isinf(value) else f"{value:.3g} ms"  # noqa: PLR2004


def _length(length_s: float) -> str:
    """A length of time in words; minutes where they are at least two."""
    return f"{length_s / 60:.3g} min" if length_s >= 120 else f"{length_s:.3g} s"  # noqa: PLR2004
