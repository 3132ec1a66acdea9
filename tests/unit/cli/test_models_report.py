"""``umbel models report`` on a real Redis, and what it says of versions that differ or do not."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import redis
import typer
from rich.console import Console
from typer.testing import CliRunner

from umbel_cli.models import report
from umbel_cli.models.report_tables import (
    comparison_table,
    notes,
    points_text,
    shares_text,
    times_text,
)
from umbel_registry.catalog import Catalog
from umbel_registry.comparison import Comparison, compare
from umbel_registry.figures import Cells, Figures, FiguresStore, Tallies
from umbel_registry.manifest import ModelFile, build_manifest
from umbel_registry.pairing import pair
from umbel_registry.paths import FileInfo
from umbel_registry.signature import TensorSpec
from umbel_registry.traffic_control import TrafficControl

Fill = Callable[..., None]


def batches(tallies: Tallies, number: int, version: str, count: int, **how: float) -> None:
    rng = np.random.default_rng(len(version) + count)
    for failed in rng.binomial(16, how.get("errors", 0.0), count):
        latencies = rng.lognormal(math.log(how.get("median_ms", 10.0)), 0.3, 16)
        cells = Cells(1_000, round(1_000 * how.get("padding", 0)))
        tallies.add("digits", number, version, latencies, 4.0, int(failed), cells)


def figures(count: int, **how: float) -> Figures:
    tallies = Tallies()
    batches(tallies, 1, "x", count, **how)
    return tallies.take().get(("digits", 1, "x"), Figures())


@pytest.fixture
def versions(store_redis: redis.Redis, namespace: str) -> None:
    """Three versions that nobody can run."""
    for version in ("2", "3", "4"):
        floats = TensorSpec(dtype="float32", shape=(3,))
        model = ModelFile(
            name="digits",
            format="torch_export",
            weights="model.pt2",
            inputs={"x": floats},
            outputs={"y": floats},
        )
        manifest = build_manifest(model, {"model.pt2": FileInfo(sha256="0" * 64, bytes=8)}, version)
        Catalog(store_redis, namespace).register(manifest)


@pytest.fixture
def traffic(versions: None, store_redis: redis.Redis, namespace: str) -> TrafficControl:
    return TrafficControl(store_redis, namespace, who="test")


@pytest.fixture
def told(
    settings: Any, redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> Callable[..., Any]:
    """Runs the command on this test's Redis."""
    app = typer.Typer()
    report.add_to(app)
    monkeypatch.setenv("UMBEL_REDIS_URL", redis_url)
    monkeypatch.setenv("UMBEL_NAMESPACE", namespace)
    monkeypatch.setenv("UMBEL_STATE_DIR", str(tmp_path / "state"))
    return lambda *words: CliRunner().invoke(app, list(words))


def number_of(traffic: TrafficControl) -> int:
    return traffic.read("digits").traffic.number_in_force


def test_versions_of_a_route_side_by_side(
    told: Any, traffic: TrafficControl, store_redis: redis.Redis, namespace: str
) -> None:
    traffic.route("digits", {"3": 9, "4": 1}, {"2": 0.5})
    tallies, number = Tallies(), number_of(traffic)
    batches(tallies, number, "3", 400, errors=0.01, padding=0.375)
    batches(tallies, number, "4", 150, errors=0.1, median_ms=20)
    batches(tallies, number, "2", 30)
    rows = np.random.default_rng(0).normal(size=(40, 3))
    tallies.add_pairs("digits", number, "2", [pair(row, row) for row in rows], failed=2)
    FiguresStore(store_redis, namespace).add(tallies.take())
    answer = told("digits")
    assert answer.exit_code == 0
    for words in (
        f"digits, route {number}",
        "3 (baseline)",
        "2 (shadow)",
        "6,400",
        "72.7 %",
        "copies",
        "against 3",
        "4 fails more often than 3: +",
        "4 is slower than 3: p50 +",
        "Outputs of 2 agree with those that were given for 100 % of 40 inputs",
        "only this one failed",
        "padding",
        "37.5 %",
        "2 failed for 4.8 % of the inputs that had an output (",
    ):
        assert words in answer.output
    as_json = json.loads(told("digits", "--json").output)
    assert (as_json["model"], as_json["route"]) == ("digits", number)
    assert as_json["shares"] == {"3": 0.9, "4": 0.1}
    assert as_json["shadows"] == {"2": 0.5}
    worse = as_json["comparison"]["versions"][1]
    assert worse["version"] == "4"
    assert worse["against_baseline"]["errors"]["verdict"] == "worse"


def test_an_earlier_route_and_another_baseline(
    told: Any, traffic: TrafficControl, store_redis: redis.Redis, namespace: str
) -> None:
    traffic.route("digits", {"3": 9, "4": 1})
    earlier, tallies = number_of(traffic), Tallies()
    batches(tallies, earlier, "4", 3)
    FiguresStore(store_redis, namespace).add(tallies.take())
    traffic.route("digits", {"2": 1, "3": 1})
    traffic.alias("digits", {"new": "4"})
    assert "4 " not in told("digits").output.splitlines()[2]
    words = ("digits", "--route", str(earlier), "--baseline", "new", "--json")
    comparison = json.loads(told(*words).output)["comparison"]
    assert comparison["baseline"] == "4"
    assert [each["jobs"] for each in comparison["versions"]] == [48, 0]
    refused = told("digits", "--baseline", "4")
    assert refused.exit_code == 1
    assert "answers no jobs of route" in refused.output
    unknown = told("digits", "--route", "99")
    assert unknown.exit_code == 1
    assert "No route 99 of digits is remembered. There are:" in unknown.output


def test_a_model_without_a_route_or_any_version_to_compare(
    told: Any, traffic: TrafficControl
) -> None:
    answer = told("digits")
    assert answer.exit_code == 0
    assert "Only 4 answers, so there is nothing to compare it with." in answer.output
    missing = told("digit")
    assert missing.exit_code == 1
    assert "Did you mean 'digits'" in missing.output


def test_all_versions_retired(told: Any, traffic: TrafficControl) -> None:
    for version in ("2", "3", "4"):
        traffic.retire("digits", version)
    answer = told("digits")
    assert answer.exit_code == 1
    assert "none answers" in answer.output


def test_a_canary_is_never_the_baseline(traffic: TrafficControl) -> None:
    traffic.route("digits", {"3": 1, "4": 9})
    state = traffic.read("digits").traffic
    route = state.route
    assert route is not None
    canary = {
        "version": "4",
        "steps": [90],
        "every_s": 1,
        "min_jobs": 1,
        "max_error_rate": 1,
        "since_ms": 0,
        "started_ms": 0,
        "by": "test",
        "before": {"3": 1},
    }
    assert report._usual(route, state) == "4"
    with_canary = type(state).model_validate({**state.model_dump(), "canary": canary})
    assert report._usual(route, with_canary) == "3"


def drawn(comparison: Comparison, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(comparison_table(comparison))
    for note in notes(comparison):
        console.print(note)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("width", [80, 120])
def test_a_table_fits_the_terminal(width: int) -> None:
    shown = {
        "3": figures(400, errors=0.01),
        "4": figures(60, errors=0.1, median_ms=2000),
        "2025-06-rc1": figures(20, median_ms=0.3),
    }
    lines = drawn(compare(shown, "3", shadows=["2025-06-rc1"]), width).splitlines()
    assert all(len(line) <= width for line in lines)
    assert not any("…" in line for line in lines)
    rows = [line.split("  ")[0] for line in lines]
    for name in ("jobs, share of all", "failed", "latency p50", "latency p99"):
        assert name in rows


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"count": 400, "errors": 0.01}, "No clear difference between 4 and 3: failures (-"),
        ({"count": 300, "errors": 0.0}, "4 fails less often than 3: -"),
        ({"count": 300, "errors": 0.01, "median_ms": 4}, "4 is quicker than 3: p50 -"),
        ({"count": 2}, "4 against 3: too few jobs to tell about failures ("),
        ({"count": 40}, "4 against 3: too few batches to tell about p95."),
        ({"count": 5, "median_ms": 90}, "4 is slower than 3: p95 +"),
        ({"count": 5, "median_ms": 90}, " ms or more)"),
        ({"count": 0}, "4 has no jobs of this route yet."),
    ],
)
def test_what_is_certain_is_said(other: dict[str, Any], words: str) -> None:
    comparison = compare({"3": figures(500, errors=0.01), "4": figures(**other)}, "3")
    assert words in "\n".join(note.plain for note in notes(comparison))


def test_a_shadow_that_was_only_compared_is_not_called_idle() -> None:
    compared = Figures(pairs=10, equal=9)
    comparison = compare({"3": figures(50), "4": compared}, "3", shadows=["4"])
    assert "copies" in drawn(comparison, 80).splitlines()[1]
    told = notes(comparison)
    assert [note.plain.partition("(")[0] for note in told[:-1]] == [
        "Outputs of 4 agree with those that were given for 90.0 % of 10 inputs "
    ]


def test_the_last_note_says_how_much_to_believe() -> None:
    shown = {"3": figures(50), "4": figures(50)}
    assert "right 99 times out of 100" in notes(compare(shown, "3", confidence=0.99))[-1].plain


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (shares_text(0.0), "0 %"),
        (shares_text(1.0), "100 %"),
        (shares_text(0.123), "12.3 %"),
        (shares_text(0.999), "99.90 %"),
        (shares_text(0.00004), "0.004 %"),
        (shares_text(0.0, 0.029), "0 to 2.9 %"),
        (shares_text(0.978, 0.9954), "97.80 to 99.54 %"),
        (points_text(0.041), "4.1 points"),
        (points_text(-0.004, 0.0021), "-0.40 to 0.21 points"),
        (points_text(-0.004, 0.02), "-0.4 to 2.0 points"),
        (times_text(0.123), "0.12 ms"),
        (times_text(12.34), "12.3 ms"),
        (times_text(850.4), "850 ms"),
        (times_text(1000.0), "1.00 s"),
        (times_text(900.0, 1500.0), "0.90 to 1.50 s"),
        (times_text(0.0, 4.0), "0 to 4.0 ms"),
        (times_text(0.04, 4.0), "0.04 to 4.00 ms"),  # an end that is not 0 does not read as 0
    ],
)
def test_numbers_as_people_read_them(text: str, expected: str) -> None:
    assert text == expected
