"""Confidence intervals beside published values, and how often they cover the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel_registry.intervals import (
    Bounds,
    newcombe,
    normal_quantile,
    quantile_ranks,
    square_and_add,
    wilson,
)

REPETITIONS = 300


def both(bounds: Bounds) -> tuple[float, float]:
    return bounds.low, bounds.high


@pytest.mark.parametrize(
    ("confidence", "expected"), [(0.90, 1.644854), (0.95, 1.959964), (0.99, 2.575829)]
)
def test_normal_quantiles(confidence: float, expected: float) -> None:
    assert normal_quantile(confidence) == pytest.approx(expected, abs=1e-6)


# Newcombe, Statistics in Medicine 17 (1998), 857-872, table I, method 3.
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_as_published(successes: int, n: int, low: float, high: float) -> None:
    assert both(wilson(successes, n)) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson(n - successes, n)
    assert both(mirrored) == pytest.approx((1 - high, 1 - low), abs=5e-5)


# Newcombe, Statistics in Medicine 17 (1998), 873-890, table II, method 10.
@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        ((56, 70, 48, 80), 0.0524, 0.3339),
        ((9, 10, 3, 10), 0.1705, 0.8090),
        ((6, 7, 2, 7), 0.0582, 0.8062),
        ((5, 56, 0, 29), -0.0381, 0.1926),
        ((0, 10, 0, 20), -0.1611, 0.2775),
        ((10, 10, 0, 20), 0.6791, 1.0),
    ],
)
def test_newcombe_as_published(counts: tuple[int, int, int, int], low: float, high: float) -> None:
    assert both(newcombe(*counts)) == pytest.approx((low, high), abs=5e-5)
    s1, n1, s2, n2 = counts
    assert both(newcombe(s2, n2, s1, n1)) == pytest.approx((-high, -low), abs=5e-5)


def test_nothing_tells_nothing() -> None:
    assert both(wilson(0, 0)) == (0, 1)
    assert both(newcombe(0, 0, 1, 10)) == both(newcombe(1, 10, 0, 0)) == (-1, 1)


@given(st.integers(0, 500), st.integers(1, 500), st.floats(0.5, 0.999))
def test_wilson_holds_what_was_seen_and_stays_a_share(
    successes: int, n: int, confidence: float
) -> None:
    successes = min(successes, n)
    bounds = wilson(successes, n, confidence)
    assert 0 <= bounds.low <= successes / n <= bounds.high <= 1
    assert bounds.low < bounds.high


def test_square_and_add_by_hand() -> None:
    bounds = square_and_add(10.0, Bounds(7.0, 14.0), 6.0, Bounds(3.0, 10.0))
    assert both(bounds) == pytest.approx((4 - 5, 4 + 5))
    assert not bounds.excludes(0.0)
    assert bounds.excludes(9.1)


def test_an_end_that_is_not_bounded_leaves_the_difference_open() -> None:
    open_ended = Bounds(1.0, math.inf)
    bounds = square_and_add(2.0, open_ended, 5.0, Bounds(4.0, 6.0))
    assert bounds.low == pytest.approx(-3 - math.sqrt(2))
    assert bounds.high == math.inf
    assert not bounds.bounded
    assert square_and_add(5.0, Bounds(4.0, 6.0), 2.0, open_ended).low == -math.inf


# From the binomial distribution with a chance of one half: any table of intervals of the median.
@pytest.mark.parametrize(("n", "ranks"), [(5, (0, 6)), (6, (1, 6)), (10, (2, 9)), (20, (6, 15))])
def test_ranks_of_the_median(n: int, ranks: tuple[int, int]) -> None:
    assert quantile_ranks(n, 0.5) == ranks


def test_ranks_of_a_high_quantile_need_many_samples() -> None:
    # 1 - 0.99^n must reach 0.975 from above: n = 367 is the first to have an upper rank.
    assert quantile_ranks(366, 0.99)[1] == 367
    assert quantile_ranks(368, 0.99)[1] == 368


@pytest.mark.parametrize("q", [0.5, 0.95, 0.99])
def test_ranks_do_not_jump_where_the_approximation_begins(q: float) -> None:
    exact, normal = quantile_ranks(2000, q), quantile_ranks(2001, q)
    assert all(abs(one - other) <= 3 for one, other in zip(exact, normal, strict=True))


def test_ranks_cover_as_often_as_they_say() -> None:
    for n in (30, 300, 1000):
        low, high = quantile_ranks(n, 0.95)
        chances = np.random.default_rng(n).binomial(n, 0.95, 20_000)
        assert np.mean((low <= chances) & (chances < high)) >= 0.945


@pytest.mark.parametrize(("p1", "n1", "p2", "n2"), [(0.05, 300, 0.02, 2000), (0.5, 40, 0.5, 60)])
def test_newcombe_covers_the_true_difference(p1: float, n1: int, p2: float, n2: int) -> None:
    rng = np.random.default_rng(11)
    covered = 0
    for _ in range(REPETITIONS):
        bounds = newcombe(int(rng.binomial(n1, p1)), n1, int(rng.binomial(n2, p2)), n2)
        covered += not bounds.excludes(p1 - p2)
    assert covered / REPETITIONS >= 0.92
