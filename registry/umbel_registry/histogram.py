"""Durations counted in bins of fixed edges, so that counts of many processes can be added up."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from umbel_registry.intervals import CONFIDENCE, Bounds, quantile_ranks

#: Bins in which a duration doubles. Each is 4.4 % wide: no two quantiles are told apart that are
#: closer, however many jobs there were.
PER_DOUBLING: Final = 16
FIRST_MS: Final = 0.01
LAST_MS: Final = 3_600_000.0

_COUNT = math.ceil(PER_DOUBLING * math.log2(LAST_MS / FIRST_MS))
#: Where bins meet, in ms. They are part of what is stored: changed edges need other field names.
EDGES: Final[NDArray[np.float64]] = np.append(
    FIRST_MS * 2.0 ** (np.arange(_COUNT) / PER_DOUBLING), LAST_MS
)
_EDGES: Final = EDGES.tolist()
#: Number of bins: the first is for less than ``FIRST_MS``, the last for ``LAST_MS`` and more.
BINS: Final = len(EDGES) + 1

#: Rounding must not push a whole rank up to the next.
_ROUNDING = 1e-9


def bins_of(values_ms: ArrayLike) -> NDArray[np.intp]:
    """The bin of each duration.

    Args:
        values_ms: durations in ms; negative ones, of clocks that differ, are in bin 0, and NaN is
            in the last.
    """
    return EDGES.searchsorted(np.asarray(values_ms, dtype=np.float64), side="right")


def bin_of(value_ms: float) -> int:
    """The bin of one duration, quicker than ``bins_of``.

    Args:
        value_ms: a duration in ms.
    """
    return bisect_right(_EDGES, value_ms)


def bin_bounds(place: int) -> Bounds:
    """The edges of a bin in ms; the last has no upper one.

    Args:
        place: number of the bin, from 0.
    """
    low = _EDGES[place - 1] if place else 0.0
    return Bounds(low, _EDGES[place] if place < len(_EDGES) else math.inf)


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many durations fell into each bin.

    Attributes:
        counts: by number of the bin; bins without any are left out.
    """

    counts: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, values_ms: ArrayLike) -> Histogram:
        """Counts durations.

        Args:
            values_ms: durations in ms.
        """
        return cls.dense(np.bincount(bins_of(values_ms), minlength=BINS))

    @classmethod
    def dense(cls, counts: NDArray[Any]) -> Histogram:
        """From a count for every bin.

        Args:
            counts: array of ``BINS`` whole numbers.
        """
        places = np.flatnonzero(counts)
        return cls(dict(zip(places.tolist(), counts[places].tolist(), strict=True)))

    @property
    def total(self) -> int:
        """Number of all durations."""
        return sum(self.counts.values())

    def merge(self, other: Histogram) -> Histogram:
        """The durations of both.

        Args:
            other: from elsewhere.
        """
        places = {*self.counts, *other.counts}
        return Histogram(
            {place: self.counts.get(place, 0) + other.counts.get(place, 0) for place in places}
        )

    def quantile(self, q: float) -> float | None:
        """The smallest duration that at least a share ``q`` of all do not exceed, in ms.

        It is off by less than the width of its bin. One of ``LAST_MS`` or more counts as that.

        Args:
            q: between 0 and 1.

        Returns:
            The duration, or ``None`` if there are none at all.
        """
        if not self.counts:
            return None
        rank = max(1, math.ceil(q * self.total - _ROUNDING))
        place, before = self._bin_at(rank)
        edges = bin_bounds(place)
        if math.isinf(edges.high):
            return edges.low
        part = (rank - before - 0.5) / self.counts[place]
        return edges.low + part * (edges.high - edges.low)

    def quantile_interval(
        self, q: float, confidence: float = CONFIDENCE, *, independent: int | None = None
    ) -> Bounds:
        """Where the true quantile lies, in ms: from the samples of the ranks that may be it.

        The outer edges of their bins are taken, so that it is never narrower than what the bins
        can tell apart.

        Args:
            q: above 0 and below 1.
            confidence: how often the interval shall cover the truth.
            independent: how many of the durations are worth counting as independent of each other;
                default: all. Jobs of one batch, for example, all end with it.

        Returns:
            The interval; from 0, or to ``inf``, where there are too few durations to bound it.
        """
        total = self.total
        n = total if independent is None else min(independent, total)
        if n <= 0:
            return Bounds(0.0, math.inf)
        first, last = quantile_ranks(n, q, confidence)
        # Each independent one stands for a block of ranks; the outermost of its block is taken.
        low = bin_bounds(self._bin_at((first - 1) * total // n + 1)[0]).low if first else 0.0
        if last > n:
            return Bounds(low, math.inf)
        return Bounds(low, bin_bounds(self._bin_at(-(-last * total // n))[0]).high)

    def _bin_at(self, rank: int) -> tuple[int, int]:
        """The bin that holds the duration of a rank, from 1, and how many are in bins below it."""
        before = 0
        for place in sorted(self.counts):
            if rank <= before + self.counts[place]:
                break
            before += self.counts[place]
        return place, before
