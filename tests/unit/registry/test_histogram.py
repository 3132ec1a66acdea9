"""Durations in bins: edges that stay, quantiles beside NumPy's, intervals that cover the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel_registry.histogram import (
    BINS,
    EDGES,
    FIRST_MS,
    LAST_MS,
    Histogram,
    bin_bounds,
    bin_of,
    bins_of,
)

REPETITIONS = 300
#: Of the true quantiles of the durations below.
MEDIAN, TAIL = 20.0, 20.0 * math.exp(0.5 * 1.6448536269514722)
#: Durations that lie on no edge by chance alone.
durations = st.floats(0, 2 * LAST_MS, allow_nan=False)


def lognormal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.lognormal(math.log(MEDIAN), 0.5, shape)


def test_the_edges_are_those_that_stored_figures_were_made_with() -> None:
    assert len(EDGES) == BINS - 1 == 456
    assert EDGES[[0, 16, 160, 320]] == pytest.approx([0.01, 0.02, 10.24, 10_485.76])
    assert (EDGES[0], EDGES[-1]) == (FIRST_MS, LAST_MS)
    widths = EDGES[1:] / EDGES[:-1]
    assert widths[:-1] == pytest.approx(2 ** (1 / 16))
    assert 1 < widths[-1] <= 2 ** (1 / 16)


def test_every_duration_has_a_bin() -> None:
    odd = [-5.0, 0.0, 0.0099, FIRST_MS, 1.0, LAST_MS - 1, LAST_MS, math.inf]
    assert bins_of(odd).tolist() == [0, 0, 0, 1, 107, BINS - 2, BINS - 1, BINS - 1]
    assert bins_of([math.nan]).tolist() == [BINS - 1]
    assert bins_of([]).tolist() == []


@given(durations)
def test_a_duration_lies_within_the_edges_of_its_bin(value: float) -> None:
    (place,) = bins_of([value]).tolist()
    assert bin_of(value) == place
    edges = bin_bounds(place)
    assert edges.low <= value < edges.high


@pytest.mark.parametrize("q", [0.001, 0.25, 0.5, 0.95, 0.99, 1.0])
@pytest.mark.parametrize("size", [1, 2, 7, 100, 5000])
def test_a_quantile_lies_in_the_bin_of_that_of_the_samples(q: float, size: int) -> None:
    values = lognormal(np.random.default_rng(size), size)
    exact = float(np.quantile(values, q, method="inverted_cdf"))
    found = Histogram.of(values).quantile(q)
    assert found is not None
    assert bin_of(found) == bin_of(exact)
    assert found == pytest.approx(exact, rel=2 ** (1 / 16) - 1)


def test_no_duration_has_no_quantile() -> None:
    empty = Histogram()
    assert empty.total == 0
    assert empty.quantile(0.5) is None
    bounds = empty.quantile_interval(0.5)
    assert (bounds.low, bounds.high) == (0.0, math.inf)


def test_an_hour_and_more_counts_as_an_hour() -> None:
    slow = Histogram.of([LAST_MS * 5] * 20)
    assert slow.quantile(0.5) == LAST_MS
    bounds = slow.quantile_interval(0.5)
    assert (bounds.low, bounds.high) == (LAST_MS, math.inf)


def test_histograms_add_up() -> None:
    values = lognormal(np.random.default_rng(3), 400)
    first, second = Histogram.of(values[:150]), Histogram.of(values[150:])
    assert first.merge(second) == second.merge(first) == Histogram.of(values)
    assert first.merge(Histogram()) == first
    assert first.merge(second).total == 400


@pytest.mark.parametrize(("block", "ranks"), [(1, (2, 9)), (7, (8, 63))])
def test_an_interval_runs_from_bin_to_bin_of_its_ranks(block: int, ranks: tuple[int, int]) -> None:
    # Of ten the median lies between the second and the ninth; each may stand for a block of them.
    values = 2.0 ** (np.arange(10 * block) / 4)  # no two share a bin
    bounds = Histogram.of(values).quantile_interval(0.5, independent=10)
    low, high = (bin_bounds(bin_of(values[rank - 1])) for rank in ranks)
    assert (bounds.low, bounds.high) == (low.low, high.high)


def test_an_interval_is_never_narrower_than_a_bin() -> None:
    same = Histogram.of([5.0] * 100_000)
    bounds = same.quantile_interval(0.5)
    edges = bin_bounds(bin_of(5.0))
    assert (bounds.low, bounds.high) == (edges.low, edges.high)


def test_too_few_durations_do_not_bound_a_quantile() -> None:
    values = lognormal(np.random.default_rng(5), 50)
    assert not Histogram.of(values).quantile_interval(0.99).bounded
    assert Histogram.of(values).quantile_interval(0.5).bounded
    bounds = Histogram.of(values[:4]).quantile_interval(0.5)
    assert (bounds.low, bounds.high) == (0.0, math.inf)


def test_fewer_independent_durations_make_an_interval_wider() -> None:
    values = Histogram.of(lognormal(np.random.default_rng(6), 6400))
    wide, narrow = values.quantile_interval(0.5, independent=100), values.quantile_interval(0.5)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert values.quantile_interval(0.5, independent=10**9) == narrow
    assert not values.quantile_interval(0.5, independent=0).bounded


@pytest.mark.parametrize(("q", "true"), [(0.5, MEDIAN), (0.95, TAIL)])
@pytest.mark.parametrize("size", [150, 3000])
def test_intervals_cover_the_true_quantile(q: float, true: float, size: int) -> None:
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(REPETITIONS):
        bounds = Histogram.of(lognormal(rng, size)).quantile_interval(q)
        covered += bounds.low <= true <= bounds.high
    assert covered / REPETITIONS >= 0.93


def test_jobs_that_end_together_do_not_make_an_interval_too_sure() -> None:
    rng = np.random.default_rng(8)
    batches, size = 60, 32
    naive = honest = 0
    for _ in range(REPETITIONS):
        values = Histogram.of(np.repeat(lognormal(rng, batches), size))
        alone = values.quantile_interval(0.5)
        together = values.quantile_interval(0.5, independent=batches)
        naive += alone.low <= MEDIAN <= alone.high
        honest += together.low <= MEDIAN <= together.high
    assert honest / REPETITIONS >= 0.93
    assert naive / REPETITIONS < 0.8
