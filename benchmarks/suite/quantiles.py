"""Medians, ranges and tails of what was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np

#: The quantiles of a tail, by name.
QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999}


@dataclass(frozen=True, slots=True)
class Tail:
    """Quantiles of latencies in ms, each one that was seen; infinite ones never ended.

    Attributes:
        count: how many there were.
        p50: half of them are not above it.
        p90: nine in ten are not.
        p99: ninety-nine in a hundred.
        p99_9: nine hundred and ninety-nine in a thousand.
        max: all.
    """

    count: int
    p50: float
    p90: float
    p99: float
    p99_9: float
    max: float

    @classmethod
    def of(cls, values: Any) -> Self:
        """The quantiles of some values; those that are not a number count as infinite.

        Args:
            values: in ms.

        Raises:
            ValueError: there are none.
        """
        known = np.sort(np.nan_to_num(np.asarray(values, np.float64), nan=np.inf))
        if not len(known):
            raise ValueError("no values, so no quantiles")
        at = {name: float(known[_rank(len(known), q)]) for name, q in QUANTILES.items()}
        return cls(count=len(known), max=float(known[-1]), **at)


@dataclass(frozen=True, slots=True)
class Spread:
    """What several rounds gave.

    Attributes:
        median: of them.
        low: the least.
        high: the most.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """The spread of some values.

        Args:
            values: one a round, at least one.
        """
        return cls(statistics.median(values), min(values), max(values))


def _rank(count: int, quantile: float) -> int:
    """The place of a quantile among so many sorted values: the least that covers that part."""
    return max(0, math.ceil(quantile * count - 1e-9) - 1)
