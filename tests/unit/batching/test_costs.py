"""What batches cost: the line through them, what lies off it, and what must not disturb it."""

from __future__ import annotations

import math

import pytest

from umbel_batching.costs import Costs
from umbel_batching.lines import Fit, Line, Point, fitted, quantile

SIZES = (1, 4, 16, 64)


def fit_of(costs: Costs, now: float) -> Fit:
    fit = costs.fit(now)
    assert fit is not None
    return fit


def fed(costs: Costs, line: Line, seconds: float, start: float = 0.0) -> float:
    """Ten batches a second of all sizes in turn; returns when the last one was."""
    now = start
    for step in range(round(seconds * 10)):
        now = start + step / 10
        size = SIZES[step % len(SIZES)]
        costs.note(size, line.at(size), now)
        costs.fit(now)
    return now


def test_the_line_is_found() -> None:
    costs = Costs()
    fit = fit_of(costs, fed(costs, Line(3.0, 0.2), 5))
    assert [fit.line.fixed, fit.line.per_job] == pytest.approx([3.0, 0.2], rel=0.01)
    assert fit.costs(64)[-1] == pytest.approx(15.8, rel=0.01)
    assert fit.slow == pytest.approx(1.0, abs=0.1)
    assert fit.largest == 64


def test_nothing_is_known_before_the_first_batch() -> None:
    assert Costs().fit(1.0) is None


def test_the_first_batch_is_taken_for_fixed_costs() -> None:
    costs = Costs()
    costs.note(4, 2.0, 0.0)
    line = fit_of(costs, 0.0).line
    assert [line.fixed, line.per_job] == pytest.approx([2.0, 0.0])


def test_a_pause_in_one_batch_of_ten_changes_nothing() -> None:
    costs, line, now = Costs(), Line(3.0, 0.2), 0.0
    for step in range(100):
        now, size = step / 10, SIZES[step % len(SIZES)]
        costs.note(size, line.at(size) * (40 if step % 10 == 0 else 1), now)
    fit = fit_of(costs, now)
    assert fit.costs(64)[-1] == pytest.approx(15.8, rel=0.02)
    assert fit.slow < 1.1


def test_a_size_that_is_slow_is_remembered_while_others_are_used() -> None:
    costs, line = Costs(), Line(3.0, 0.2)
    for step in range(40):
        size = SIZES[step % len(SIZES)]
        costs.note(size, line.at(size) * (1.5 if size == 64 else 1), step / 10)
        costs.fit(step / 10)
    for step in range(200):
        costs.note(16, line.at(16), 4 + step / 10)
        costs.fit(4 + step / 10)
    costs_of = fit_of(costs, 24.0).costs(64)
    assert costs_of[63] > 1.25 * line.at(64)
    assert costs_of[15] == pytest.approx(line.at(16), rel=0.02)


def test_a_machine_that_is_slower_is_so_at_all_sizes() -> None:
    costs = Costs()
    now = fed(costs, Line(3.0, 0.2), 5)
    costs.fit(now)
    for step in range(10):  # one size alone tells it
        costs.note(64, 2 * 15.8, now + 0.2 + step / 9)
    costs_of = fit_of(costs, now + 1.4).costs(64)
    assert (costs_of[0], costs_of[63]) == (
        pytest.approx(6.4, rel=0.1),
        pytest.approx(31.6, rel=0.01),
    )


def test_what_others_know_is_replaced_by_what_is_seen() -> None:
    costs = Costs()
    costs.seed([Point(1, 1.0, 9.0), Point(64, 7.3, 9.0)], 0.0)
    line = fit_of(costs, 0.0).line
    assert [line.fixed, line.per_job] == pytest.approx([0.9, 0.1], rel=0.02)
    fit = fit_of(costs, fed(costs, Line(3.0, 0.2), 5))
    assert fit.costs(64)[-1] == pytest.approx(15.8, rel=0.02)


def test_what_is_no_cost_is_ignored() -> None:
    costs = Costs()
    costs.seed([Point(0, 1.0, 1.0), Point(2, math.nan, 1.0), Point(1e99, 1.0, 1.0)], 0.0)
    for size, ms in ((0, 1.0), (1, 0.0), (1, -1.0), (1, math.inf), (1, math.nan)):
        costs.note(size, ms, 0.0)
    assert costs.fit(0.0) is None


def test_memory_is_bounded() -> None:
    costs = Costs()
    for step in range(20_000):
        costs.note(step % 4096 + 1, 1.0, step / 1000)
    assert len(costs._classes) <= 25
    assert all(len(known.seen) <= 24 for known in costs._classes.values())


def test_a_line_has_no_negative_part() -> None:
    falling = fitted([Point(1, 10.0, 1.0), Point(64, 5.0, 1.0)])
    assert falling.per_job == 0
    steep = fitted([Point(1, 1.0, 1.0), Point(2, 4.0, 1.0), Point(4, 16.0, 1.0)])
    assert steep.fixed == 0


def test_a_quantile_goes_by_weight() -> None:
    assert quantile([(1, 5.0), (1, 1.0), (4, 3.0)], 0.5) == 3.0
    assert quantile([(0.0, 7.0)], 0.5) == 7.0
