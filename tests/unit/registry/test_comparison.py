"""Versions side by side: figures, verdicts, and what is left open."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import numpy as np
import pytest

from umbel_registry.comparison import Comparison, Estimate, compare
from umbel_registry.figures import Figures, Tallies
from umbel_registry.intervals import newcombe, wilson
from umbel_registry.pairing import Pairing


def measured(
    batches: int, median_ms: float = 10.0, error_rate: float = 0.0, size: int = 8, seed: int = 0
) -> Figures:
    """Figures of batches whose jobs end and fail each for itself."""
    rng, tallies = np.random.default_rng(seed), Tallies()
    for failed in rng.binomial(size, error_rate, batches):
        latencies = rng.lognormal(math.log(median_ms), 0.3, size)
        tallies.add("m", 1, "v", latencies, median_ms / 2, int(failed))
    return tallies.take().get(("m", 1, "v"), Figures())


def verdicts(comparison: Comparison, version: str) -> dict[str, str]:
    return {name: told.verdict for name, told in comparison.of(version).against_baseline.items()}


def test_the_figures_of_a_version() -> None:
    figures = {"3": measured(300, seed=1), "4": measured(100, error_rate=0.1, seed=2)}
    comparison = compare(figures, "3")
    assert (comparison.baseline, comparison.confidence) == ("3", 0.95)
    one, other = comparison.versions
    assert (one.version, one.jobs, one.share, one.batches) == ("3", 2400, 0.75, 300)
    assert one.batch_size == 8
    assert one.compute_ms == pytest.approx(5.0)
    assert one.errors == Estimate(0.0, 0.0, wilson(0, 2400).high)
    assert one.against_baseline == {}
    assert other.errors is not None
    assert other.errors.low < 0.1 < other.errors.high
    assert other.errors.value == other.failed / 800
    assert set(other.latency) == {"p50", "p95", "p99"}
    median = other.latency["p50"]
    assert median.low < 10 < median.high
    assert one.agreement is None


def test_the_baseline_comes_first_and_the_others_as_given() -> None:
    figures = dict.fromkeys(("1", "2", "3"), measured(5))
    assert [each.version for each in compare(figures, "2").versions] == ["2", "1", "3"]
    with pytest.raises(KeyError):
        compare(figures, "2").of("9")


def test_equal_versions_do_not_differ() -> None:
    figures = {"3": measured(400, error_rate=0.02, seed=3), "4": measured(400, 10, 0.02, seed=4)}
    told = verdicts(compare(figures, "3"), "4")
    assert told == dict.fromkeys(("errors", "p50", "p95"), "no clear difference")


def test_clear_differences_are_called_better_or_worse() -> None:
    figures = {"3": measured(400, 10, 0.05), "4": measured(400, 20, 0.2), "2": measured(400, 5, 0)}
    comparison = compare(figures, "3")
    assert verdicts(comparison, "4") == dict.fromkeys(("errors", "p50", "p95"), "worse")
    assert verdicts(comparison, "2") == dict.fromkeys(("errors", "p50", "p95"), "better")
    worse = comparison.of("4").against_baseline["p50"]
    assert worse.value == pytest.approx(10, rel=0.1)
    assert 0 < worse.low < 10 < worse.high


def test_the_difference_of_error_rates_is_newcombes() -> None:
    # One job a batch, so that no job can fail together with another.
    three, four = measured(500, error_rate=0.1, size=1), measured(200, error_rate=0.2, size=1)
    told = compare({"3": three, "4": four}, "3").of("4").against_baseline["errors"]
    bounds = newcombe(four.failed, 200, three.failed, 500)
    assert (told.low, told.high) == pytest.approx((bounds.low, bounds.high), rel=1e-6)


def test_a_batch_that_fails_whole_is_one_event() -> None:
    good, bad = measured(100, size=64), measured(100, size=64)
    tallies = Tallies()
    tallies.add("m", 1, "v", np.full(64, 10.0), 5.0, 64)
    unlucky = bad.merge(tallies.take()["m", 1, "v"])
    assert verdicts(compare({"3": good, "4": unlucky}, "3"), "4")["errors"] == "no clear difference"
    alone = measured(101, error_rate=0.01, size=64)
    assert alone.failed == pytest.approx(unlucky.failed, abs=20)
    assert verdicts(compare({"3": good, "4": alone}, "3"), "4")["errors"] == "worse"


def test_few_batches_leave_a_quantile_open() -> None:
    comparison = compare({"3": measured(400), "4": measured(5, 11), "5": measured(5, 50)}, "3")
    assert comparison.of("4").latency["p95"].high == math.inf
    told = comparison.of("4").against_baseline["p95"]
    assert (told.high, told.verdict) == (math.inf, "no clear difference")
    far = comparison.of("5").against_baseline["p95"]
    assert far.low > 0
    assert (far.high, far.verdict) == (math.inf, "worse")  # by how much is open, that it is, not


def test_versions_without_jobs_have_nothing_to_tell() -> None:
    comparison = compare({"3": Figures(), "4": Figures()}, "3")
    for each in comparison.versions:
        assert (each.jobs, each.share, each.errors, each.latency) == (0, None, None, {})
        assert (each.batch_size, each.compute_ms, each.agreement) == (None, None, None)
        assert each.against_baseline == {}
    half = compare({"3": measured(20), "4": Figures()}, "3")
    assert half.of("3").share == 1.0
    assert half.of("4").against_baseline == {}


def shadowed(pairings: list[Pairing], failed: int = 0) -> Figures:
    tallies = Tallies()
    tallies.add_pairs("m", 1, "v", pairings, failed)
    return measured(50, 500).merge(tallies.take()["m", 1, "v"])


def test_a_shadow_is_told_by_its_outputs_and_not_by_its_latency() -> None:
    alike = Pairing(equal=True, same_top=True, difference=1e-4)
    apart = Pairing(equal=False, same_top=False, difference=0.5)
    unlike = Pairing(equal=False, same_top=None, difference=math.inf)
    shadow = shadowed([alike] * 96 + [apart] * 2 + [unlike] * 2, failed=3)
    comparison = compare({"3": measured(100), "4": shadow}, "3", shadows=["4"])
    assert comparison.of("3").share == 1.0
    told = comparison.of("4")
    assert told.shadow
    assert told.share is None
    assert told.latency["p50"].value > 300
    assert set(told.against_baseline) == {"errors"}
    agreement = told.agreement
    assert agreement is not None
    bounds = wilson(96, 100)
    assert agreement.equal == Estimate(0.96, bounds.low, bounds.high)
    assert agreement.same_top is not None
    assert agreement.same_top.value == 96 / 98
    assert (agreement.pairs, agreement.unlike, agreement.failed_pairs) == (100, 2, 3)
    assert agreement.mean_difference == pytest.approx((96e-4 + 1) / 98)
    assert agreement.largest_difference == 0.5
    alone = wilson(3, 103)
    assert agreement.failed == Estimate(3 / 103, alone.low, alone.high)


def test_a_shadow_that_only_fails_or_never_compares() -> None:
    only_failed = compare({"4": shadowed([], failed=5)}, "4").of("4").agreement
    assert only_failed is not None
    assert (only_failed.pairs, only_failed.equal, only_failed.failed_pairs) == (0, None, 5)
    unlike = [Pairing(equal=False, same_top=None, difference=math.inf)]
    never = compare({"4": shadowed(unlike)}, "4").of("4").agreement
    assert never is not None
    assert (never.same_top, never.mean_difference, never.largest_difference) == (None, None, None)
    assert never.equal is not None
    assert never.equal.value == 0


def test_a_comparison_is_json_without_infinities() -> None:
    comparison = compare({"3": measured(400), "4": measured(5, 11)}, "3")
    plain: Any = json.loads(msgspec.json.encode(comparison))
    assert [each["version"] for each in plain["versions"]] == ["3", "4"]
    told = plain["versions"][1]
    assert told["latency"]["p95"]["high"] is None
    assert told["against_baseline"]["p95"]["verdict"] == "no clear difference"


def test_more_confidence_makes_wider_ranges() -> None:
    figures = {"3": measured(400, error_rate=0.02), "4": measured(200, 12, 0.03)}
    usual, sure = compare(figures, "3").of("4"), compare(figures, "3", confidence=0.999).of("4")
    for name, told in usual.against_baseline.items():
        wider = sure.against_baseline[name]
        assert wider.low < told.low < told.high < wider.high
