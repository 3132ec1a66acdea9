"""Lines through what batches took by their size, and the robust statistics that they rest on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

#: Relative distance from the line at which a class counts for half in fitting it.
_ODD: Final = 0.15
_ROUNDS: Final = 6
#: Points of less weight are not looked at first, if there are two of more.
_SOLID: Final = 1.0
#: Batches that it takes until a class is half believed to be off the line, and until it says
#: something about the speed of the machine.
_BELIEVED, PROVEN = 1.0, 2.0
#: A determinant below this part of its largest value is that of a single size.
_SINGULAR: Final = 1e-9
_ROUNDING: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Line:
    """Milliseconds of a batch of n jobs: ``fixed + per_job * n``.

    Attributes:
        fixed: ms that every batch takes, the a of a + b·n.
        per_job: ms that each job adds, the b.
    """

    fixed: float
    per_job: float

    def at(self, size: float) -> float:
        """Milliseconds of a batch of ``size`` jobs."""
        return self.fixed + self.per_job * size


@dataclass(frozen=True, slots=True)
class Point:
    """What was seen of one class of sizes.

    Attributes:
        size: of its batches, about.
        ms: that one of them takes, by the median.
        weight: number of batches that this rests on, as far as they still count.
    """

    size: float
    ms: float
    weight: float


@dataclass(frozen=True, slots=True)
class Fit:
    """What is known at one moment.

    Attributes:
        line: that fits best over all sizes.
        slow: how many times its usual milliseconds a batch takes that is slower than nine of ten.
        largest: the largest size that was ever seen.
        points: what was seen, from small to large; may lie off the line.
        recent: points of the last seconds alone.
    """

    line: Line
    slow: float
    largest: float
    points: tuple[Point, ...]
    recent: tuple[Point, ...]

    @property
    def straight(self) -> Fit:
        """The same without what lies off the line."""
        return replace(self, points=())

    def costs(self, most: int) -> NDArray[np.float64]:
        """Milliseconds of batches of 1, 2, … ``most`` jobs.

        Where sizes were seen that is what they took; between and beyond them the line, as far off
        as its neighbours are.

        Args:
            most: the largest size.
        """
        sizes = np.arange(1, most + 1, dtype=np.float64)
        lines = self.line.fixed + self.line.per_job * sizes
        if not self.points:
            return lines
        places = [math.log(point.size) for point in self.points]
        return lines * np.exp(np.interp(np.log(sizes), places, [*map(self._off, self.points)]))

    def _off(self, point: Point) -> float:
        """How far a class is off the line, as a logarithm; what few batches say counts less."""
        off = math.log(point.ms / self.line.at(point.size))
        return off * point.weight**2 / (point.weight**2 + _BELIEVED**2)


def quantile(weighted: Sequence[tuple[float, float]], q: float) -> float:
    """The smallest value that at least a share ``q`` of the weight does not exceed.

    Args:
        weighted: weights, each with its value; at least one.
        q: between 0 and 1.
    """
    ordered = sorted(weighted, key=lambda pair: pair[1])
    rest = q * sum(weight for weight, _ in ordered)
    for weight, value in ordered:
        rest -= weight
        if rest <= _ROUNDING:
            return value
    return ordered[-1][1]


def fitted(points: Sequence[Point]) -> Line:
    """The line through points, least squares of relative distances, where the odd count less.

    Args:
        points: at least one; with one size all is taken to be fixed costs.
    """
    sizes = np.array([point.size for point in points])
    inverse = 1 / np.array([point.ms for point in points])
    weights = np.array([point.weight for point in points])
    # Relative distances of what should cost little, and was not seen of late, outweigh all others.
    solid = weights >= _SOLID
    trust = solid.astype(np.float64) if np.count_nonzero(solid) > 1 else np.ones_like(weights)
    line = Line(0.0, 0.0)
    for _ in range(_ROUNDS):
        line = _least_squares(inverse, sizes * inverse, weights * trust)
        off = (line.fixed + line.per_job * sizes) * inverse - 1
        trust = 1 / (1 + (off / _ODD) ** 2)
    return line


def _least_squares(
    u: NDArray[np.float64], v: NDArray[np.float64], weights: NDArray[np.float64]
) -> Line:
    """The ``a``, ``b`` of at least 0 for which ``a·u + b·v`` is nearest to 1."""
    uu, uv, vv = (float(np.sum(weights * x * y)) for x, y in ((u, u), (u, v), (v, v)))
    su, sv = float(np.sum(weights * u)), float(np.sum(weights * v))
    determinant = uu * vv - uv * uv
    if determinant > _SINGULAR * uu * vv:
        fixed, per_job = (su * vv - sv * uv) / determinant, (sv * uu - su * uv) / determinant
        if fixed >= 0 and per_job >= 0:
            return Line(fixed, per_job)
        if fixed < 0:
            return Line(0.0, sv / vv)
    return Line(su / uu, 0.0)
