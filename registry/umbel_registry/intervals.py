"""How sure a measured proportion, quantile or difference is: confidence intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

#: Of twenty intervals, one may miss the truth.
CONFIDENCE = 0.95
#: Below this many samples ranks come from the binomial distribution itself, above from the normal.
_EXACT = 2000


@dataclass(frozen=True, slots=True)
class Bounds:
    """An interval that covers the truth as often as its confidence says.

    Attributes:
        low: its lower end; ``-inf`` where the samples do not bound it.
        high: its upper end; ``inf`` where the samples do not bound it.
    """

    low: float
    high: float

    @property
    def bounded(self) -> bool:
        """Whether the samples were enough for both ends."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def excludes(self, value: float) -> bool:
        """Whether a value lies outside.

        Args:
            value: a possible truth, 0 for "no difference".
        """
        return not self.low <= value <= self.high


def normal_quantile(confidence: float) -> float:
    """Standard deviations to each side of the mean that hold a share of a normal distribution.

    Args:
        confidence: the share, between 0 and 1; 0.95 gives 1.96.
    """
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson(successes: float, n: float, confidence: float = CONFIDENCE) -> Bounds:
    """Wilson's score interval of a proportion.

    With ``p = successes / n`` and the normal quantile ``z``:
    ``(p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)``.
    E. B. Wilson, Journal of the American Statistical Association 22 (1927), 209-212.

    Args:
        successes: how often it happened; need not be whole.
        n: how often it could have; 0 tells nothing, so that the interval is all from 0 to 1.
        confidence: how often the interval shall cover the truth.
    """
    if n <= 0:
        return Bounds(0.0, 1.0)
    z = normal_quantile(confidence)
    share, shrink = successes / n, 1 + z * z / n
    middle = (share + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At both ends the formula gives 0 and 1 but for the last digit.
    low = 0.0 if successes <= 0 else max(0.0, middle - half)
    return Bounds(low, 1.0 if successes >= n else min(1.0, middle + half))


def square_and_add(first: float, sure: Bounds, second: float, other: Bounds) -> Bounds:
    """Interval of ``first - second`` from the intervals of two independent estimates.

    Distances from each estimate to its own ends are combined in quadrature:
    ``d - √((first - l₁)² + (u₂ - second)²)`` to ``d + √((u₁ - first)² + (second - l₂)²)``.
    G. Y. Zou and A. Donner, Statistics in Medicine 27 (2008), 1693-1702 (the MOVER).

    Args:
        first: the estimate that the other is taken from.
        sure: its interval.
        second: the other estimate.
        other: its interval.
    """
    difference = first - second
    return Bounds(
        difference - math.hypot(first - sure.low, other.high - second),
        difference + math.hypot(sure.high - first, second - other.low),
    )


def newcombe(s1: float, n1: float, s2: float, n2: float, confidence: float = CONFIDENCE) -> Bounds:
    """Interval of the difference of two independent proportions, ``s1 / n1 - s2 / n2``.

    Wilson's intervals, squared and added: method 10 of R. G. Newcombe, Statistics in Medicine 17
    (1998), 873-890.

    Args:
        s1: successes of the first.
        n1: trials of the first; where either is 0, the interval is all from -1 to 1.
        s2: successes of the second.
        n2: trials of the second.
        confidence: how often the interval shall cover the truth.
    """
    if n1 <= 0 or n2 <= 0:
        return Bounds(-1.0, 1.0)
    first, second = wilson(s1, n1, confidence), wilson(s2, n2, confidence)
    return square_and_add(s1 / n1, first, s2 / n2, second)


def quantile_ranks(n: int, q: float, confidence: float = CONFIDENCE) -> tuple[int, int]:
    """Ranks of the two samples that a quantile lies between, free of any assumption of its shape.

    How many of ``n`` samples are at most the ``q`` quantile is binomial, so the samples of the
    lowest and highest plausible rank bound it. H. A. David and H. N. Nagaraja, Order Statistics
    (2003), section 7.1.

    Args:
        n: number of independent samples, at least 1.
        q: of the quantile, above 0 and below 1.
        confidence: how often they shall enclose the truth.

    Returns:
        Two ranks from 1; 0 or ``n + 1`` where the samples are too few to bound that side.
    """
    tail = (1 - confidence) / 2
    if n > _EXACT:
        half = normal_quantile(confidence) * math.sqrt(n * q * (1 - q))
        return max(0, math.floor(n * q - half)), min(n, math.ceil(n * q + half)) + 1
    counts = np.arange(n)
    ratios = np.log((n - counts) / (counts + 1) * (q / (1 - q)))
    logs = n * math.log1p(-q) + np.concatenate(([0.0], np.cumsum(ratios)))
    below = np.cumsum(np.exp(logs))  # probability of at most k samples, for k from 0 to n
    low, high = np.searchsorted(below, (tail, 1 - tail))
    return int(low), min(int(high), n) + 1
