"""Choosing batch size and wait of an adaptive lane from what its batches cost."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final, Literal

import msgspec
import numpy as np

from umbel_batching.costs import Costs
from umbel_batching.lines import Fit, Point
from umbel_batching.policy import BatchPolicy

#: Why a size is in force. ``objective``: a larger one would miss the latency objective;
#: ``efficient``: a larger one would do no more jobs per second; ``bound``: ``max_batch_size``;
#: ``learning``: nothing larger was tried yet; ``unattainable``: even the smallest batches miss it.
Why = Literal["objective", "efficient", "bound", "learning", "unattainable"]

#: Part of the objective that a new size is chosen for, and beyond which the size in force is left.
_AIM, _LIMIT = 1.0, 1.03
#: Of sizes that do nearly as many jobs per second as the best one, the smallest is taken.
_AS_GOOD: Final = 0.99
#: How much faster another size must be to take the place of the one in force.
_WORTH: Final = 1.02
#: From this part of the largest size on, the largest is taken if it is as good.
_ALMOST: Final = 0.9
#: Sizes beyond this many times the largest one that was seen are not judged yet.
_REACH: Final = 4
#: Where the objective cannot be held, batches cost at most so much more than one of one job.
_LEAST_COST: Final = 1.5
_FIT_S: Final = 0.25
#: Where all batches are of one size, one of so many, and in so many seconds, is half as large.
_EXPLORE_BATCHES, _EXPLORE_S = 24, 0.5
_EXPLORED_WEIGHT: Final = 1.5
_HIGHER: Final = 1.05
#: How much smaller or larger a size one looks at, in turns.
_DOWN, _UP = (0.5, 0.7, 0.35), (2.0, 1.4)
#: How far on the way to a larger size one looks, in turns.
_STEPS: Final = (1.0, 0.5, 0.75, 0.25)
#: Distance of the logarithms of two sizes that are told as one.
_NEAR: Final = 0.22
#: Share of the latest error in the one that is told.
_ERROR_GAIN: Final = 0.05


class Choice(msgspec.Struct, frozen=True):
    """A size and a wait, and why these.

    Attributes:
        size: most jobs of a batch.
        wait_ms: longest wait for neighbours.
        why: see ``Why``.
        cost_ms: what a batch of that size is expected to take.
        latency_ms: within which 95 of 100 jobs are expected to end, if the lane is not overloaded.
    """

    size: int
    wait_ms: int
    why: Why
    cost_ms: float = 0.0
    latency_ms: float = 0.0


class Tuned(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker tells of an adaptive lane: what it chose and what it has learned.

    Attributes:
        kind: the kind of device, and the threads of one forward: ``cpu/2``.
        objective_ms: the latency objective.
        size: most jobs of a batch.
        wait_ms: longest wait for neighbours.
        why: see ``Why``.
        fixed_ms: the a of a + b·n: milliseconds that every batch takes.
        per_job_ms: the b: milliseconds that each job adds.
        cost_ms: what a batch of that size is expected to take.
        latency_ms: within which 95 of 100 jobs are expected to end, if the lane is not overloaded.
        observed_ms: what such batches took in the last seconds, by the median; ``None``: none ran.
        error: by which part of their milliseconds batches were misjudged lately, on average;
            ``None``: none ran.
        points: what was seen of each class of sizes.
    """

    kind: str
    objective_ms: int
    size: int
    wait_ms: int
    why: Why
    fixed_ms: float
    per_job_ms: float
    cost_ms: float
    latency_ms: float
    observed_ms: float | None = None
    error: float | None = None
    points: tuple[Point, ...] = ()


def choose(fit: Fit, policy: BatchPolicy, before: Choice | None = None) -> Choice:
    """Chooses the size that does most jobs per second within the latency objective.

    A job that just missed a batch waits for that one and then for its own, which may be a slow
    one: with ``c`` for what a batch of the size costs, 95 of 100 jobs end within about
    ``c * (1 + fit.slow)``. The wait is what the objective leaves beside that.

    Args:
        fit: what batches cost.
        policy: with an objective, and the bounds of size and wait.
        before: the choice in force, which stays unless another one is clearly better.
    """
    most = min(policy.max_batch_size, max(1, round(fit.largest * _REACH)))
    costs = fit.costs(most)
    latencies = costs * (1 + fit.slow)
    rates = np.arange(1, most + 1) / costs
    size, why = _best(costs, latencies, rates, policy)
    if why == "unattainable" and before is not None:
        size = min(size, 2 * before.size)
    elif before is not None and before.size <= most and before.size != size:
        held = latencies[before.size - 1] <= _LIMIT * policy.objective_ms
        if held and rates[size - 1] < _WORTH * rates[before.size - 1]:
            size, why = before.size, before.why
    latency = float(latencies[size - 1])
    wait = _wait(policy, latency, before)
    return Choice(size, wait, why, float(costs[size - 1]), latency)


def _best(
    costs: np.ndarray[tuple[int], np.dtype[np.float64]],
    latencies: np.ndarray[tuple[int], np.dtype[np.float64]],
    rates: np.ndarray[tuple[int], np.dtype[np.float64]],
    policy: BatchPolicy,
) -> tuple[int, Why]:
    """The best size by these figures alone, each for batches of 1, 2, … jobs; and why."""
    held = latencies <= _AIM * policy.objective_ms
    if not held.any():
        return int(np.flatnonzero(costs <= _LEAST_COST * costs.min())[-1]) + 1, "unattainable"
    good = held & (rates >= _AS_GOOD * rates[held].max())
    size, last = int(np.flatnonzero(good)[0]) + 1, len(costs)
    if size > _ALMOST * last and good[-1]:
        size = last
    if rates[size - 1] >= _AS_GOOD * rates.max() and size < last:
        return size, "efficient"
    if size == last:
        return size, "bound" if last == policy.max_batch_size else "learning"
    return size, "objective"


def _wait(policy: BatchPolicy, latency_ms: float, before: Choice | None) -> int:
    """The wait that the objective leaves room for; the one in force stays where it is near."""
    wait = min(policy.max_wait_ms, max(0, int(policy.objective_ms - latency_ms)))
    if before is not None and before.wait_ms <= wait <= 1.25 * before.wait_ms + 1:
        return min(before.wait_ms, policy.max_wait_ms)
    return wait


class Tuner:
    """Learns what the batches of one version cost in this process, and chooses their size.

    May be used from several threads.

    Args:
        known: what others know of the same version on the same kind of device.
        clock: seconds that only ever grow.
    """

    def __init__(
        self, known: Iterable[Point] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock, self._lock, self._costs = clock, threading.Lock(), Costs()
        self._costs.seed(known, clock())
        self._policy: BatchPolicy | None = None
        self._fit: Fit | None = None
        self._choice: Choice | None = None
        self._fitted_at = self._explored_at = float("-inf")
        self._batches = self._explorations = 0
        self._error: float | None = None

    def limit(self, policy: BatchPolicy) -> int:
        """The most jobs that the next batch shall have; 0 where the policy is static.

        Args:
            policy: in force.
        """
        if not policy.objective_ms:
            return 0
        with self._lock:
            if policy != self._policy:
                self._policy, self._choice = policy, None
                self._decide()
            choice = self._choice
            if choice is None:
                return 1  # the first batch tells what the next ones may be
            return self._explored(choice.size)

    def note(self, size: int, ms: float) -> None:
        """Takes note of a batch that went well.

        Args:
            size: its jobs.
            ms: for which it held its slot: from its claim until its outcomes were written.
        """
        with self._lock:
            now = self._clock()
            self._costs.note(size, ms, now)
            self._batches += 1
            self._judge(size, ms)
            if now - self._fitted_at >= _FIT_S or self._fit is None:
                self._decide()

    def told(self, kind: str) -> Tuned | None:
        """What there is to tell; ``None`` while nothing is chosen.

        Args:
            kind: the kind of device, and the threads of one forward.
        """
        with self._lock:
            fit, choice, policy = self._fit, self._choice, self._policy
            error = self._error
        if fit is None or choice is None or policy is None:
            return None
        near = [
            point.ms / fit.line.at(point.size) * fit.line.at(choice.size)
            for point in fit.recent
            if abs(math.log(point.size / choice.size)) < _NEAR
        ]
        return Tuned(
            kind=kind,
            objective_ms=policy.objective_ms,
            size=choice.size,
            wait_ms=choice.wait_ms,
            why=choice.why,
            fixed_ms=round(fit.line.fixed, 4),
            per_job_ms=round(fit.line.per_job, 6),
            cost_ms=round(choice.cost_ms, 3),
            latency_ms=round(choice.latency_ms, 3),
            observed_ms=round(near[-1], 3) if near else None,
            error=None if error is None else round(error, 4),
            points=fit.points,
        )

    def _decide(self) -> None:
        now = self._clock()
        self._fit, self._fitted_at = self._costs.fit(now), now
        if self._fit is not None and self._policy is not None:
            self._choice = choose(self._fit, self._policy, self._choice)

    def _explored(self, size: int) -> int:
        """Now and then another size, to learn what it costs; in turns a smaller and a larger one.

        Larger is one on the way to what the line alone would have: what speaks against that may be
        long ago, or have been chance. Where that is no larger, it is looked at sizes about it only
        if no other one was used lately.
        """
        now, fit = self._clock(), self._fit
        due = self._batches >= _EXPLORE_BATCHES and now - self._explored_at >= _EXPLORE_S
        if fit is None or self._policy is None or not due:
            return size
        hoped = choose(fit.straight, self._policy)
        lately = sum(point.weight >= _EXPLORED_WEIGHT for point in fit.recent)
        if lately > 1 and hoped.size <= _HIGHER * size:
            return size
        self._batches, self._explored_at = 0, now
        self._explorations += 1
        turn = self._explorations // 2
        if self._explorations % 2 == 0 and size > 1:
            return max(1, round(size * _DOWN[turn % len(_DOWN)]))
        if hoped.size > _HIGHER * size:
            step = _STEPS[turn % len(_STEPS)]
            return round(size * math.exp(step * math.log(hoped.size / size)))
        if hoped.why == "efficient" or size == 1:
            larger = math.ceil(size * _UP[turn % len(_UP)])
            return min(larger, self._policy.max_batch_size)
        return size

    def _judge(self, size: int, ms: float) -> None:
        """Notes how far the batch is from what was foretold before it was seen."""
        if self._fit is None:
            return
        off = abs(float(self._fit.costs(size)[-1]) / ms - 1)
        off = min(off, 1.0)  # one pause is one bad guess, not a hundred
        before = off if self._error is None else self._error
        self._error = before + _ERROR_GAIN * (off - before)
