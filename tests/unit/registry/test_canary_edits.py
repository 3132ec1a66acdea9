"""Whatever happens while a canary is under way, its share climbs the steps and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel_batching.policy import BatchPolicy
from umbel_registry import Manifest, TensorSpec, edits
from umbel_registry.canary_edits import Plan, begun, moved_on, stopped, weights_at
from umbel_registry.canary_step import Evidence, LaneCounts, decide
from umbel_registry.edits import Standing
from umbel_registry.figures import Figures
from umbel_registry.fleet import Readiness
from umbel_registry.histogram import Histogram
from umbel_registry.manifest import ModelFile, build_manifest
from umbel_registry.paths import FileInfo
from umbel_registry.traffic import Traffic

SPEC = TensorSpec(dtype="float32")
STEPS = st.lists(st.integers(1, 100).map(float), min_size=1, max_size=5, unique=True).map(
    lambda found: tuple(sorted(found))
)
WEIGHTS = st.fixed_dictionaries({"1": st.integers(1, 99)}, optional={"2": st.integers(1, 99)})
#: What each turn finds, and how much time has passed.
TURNS = st.lists(
    st.tuples(
        st.sampled_from(["good", "bad", "unsure", "none", "stuck", "failed", "stop", "stale"]),
        st.sampled_from([1.0, 70.0, 700.0]),
    ),
    max_size=12,
)


def manifest(version: str) -> Manifest:
    model = ModelFile(
        name="m",
        format="torch_export",
        weights="w",
        inputs={"x": SPEC},
        outputs={"y": SPEC},
        batching=BatchPolicy(),
    )
    return build_manifest(model, {"w": FileInfo(sha256="0" * 64, bytes=1)}, version)


MANIFESTS = {version: manifest(version) for version in "123"}


def measured(jobs: int, failed: int) -> Figures:
    return Figures(
        jobs=jobs,
        failed=failed,
        batches=jobs,
        size_squared=jobs,
        failed_by_size=failed,
        failed_squared=failed,
        latency=Histogram.of([10.0] * jobs),
    )


EVIDENCE = {
    "good": Evidence(own=measured(100, 0)),
    "bad": Evidence(own=measured(100, 50)),
    "unsure": Evidence(own=measured(100, 2)),
    "stuck": Evidence(waiting=5, oldest_ms=10**7, silent_ms=10**7),
}


class Course:
    """A canary on its way, in memory."""

    def __init__(self, weights: dict[str, int], steps: tuple[float, ...]) -> None:
        traffic = edits.with_route(self._standing(Traffic(), 0), weights)
        plan = Plan(
            steps=steps, every_s=60, min_jobs=50, max_error_rate=0.01, max_p95_ms=None, warm_s=300
        )
        self.standing = self._standing(begun(self._standing(traffic, 0), "3", plan, "ann"), 0)
        self.first = self.standing

    def _standing(self, traffic: Traffic, now_ms: int) -> Standing:
        return Standing("m", 0, traffic, MANIFESTS, now_ms)

    @property
    def canary(self) -> Any:
        return self.standing.traffic.canary

    @property
    def share(self) -> float:
        route = self.standing.route
        assert route is not None
        return 100 * route.share("3")

    def turn(self, what: str, seconds: float) -> None:
        now_ms = self.standing.now_ms + round(seconds * 1000)
        if not self.canary.under_way:
            return
        if what == "stop":
            self.standing = self._standing(stopped(self.standing, promote=False), now_ms)
            return
        failed = {"a:1": "no"} if what == "failed" else {}
        readiness = Readiness(4, 0 if failed or what == "none" else 4, (), failed)
        decision = decide(self.canary, now_ms, readiness, EVIDENCE.get(what, Evidence()))
        seen = self.first if what == "stale" else self.standing
        now = self._standing(self.standing.traffic, now_ms)
        self.standing = self._standing(moved_on(now, seen, decision, LaneCounts()), now_ms)


@given(WEIGHTS, STEPS, TURNS)
def test_the_share_climbs_the_steps_and_ends_where_it_may(
    weights: dict[str, int], steps: tuple[float, ...], turns: list[tuple[str, float]]
) -> None:
    course = Course(weights, steps)
    climb = (0.0, *steps)
    first = course.first.route
    for what, seconds in turns:
        before, traffic = course.canary, course.standing.traffic
        course.turn(what, seconds)
        if what == "stale" and before.state == "stepping":
            assert course.standing.traffic == traffic
        if course.canary.under_way:
            assert 0 <= course.canary.step - before.step <= 1
            assert course.share == pytest.approx(climb[course.canary.step + 1])
    route, canary = course.standing.route, course.canary
    assert first is not None
    assert route is not None
    if canary.state == "rolled_back" or canary.reason == "by hand":
        assert (route.weights, route.table) == (first.weights, first.table)
    elif canary.state == "promoted":
        assert route.weights == {"3": 1.0}
    elif canary.state == "stopped":
        assert course.share == pytest.approx(steps[-1])
    kept = [each.number for each in course.standing.traffic.earlier]
    assert all(number <= canary.route for number in kept)


@given(WEIGHTS, st.floats(0.001, 99.999))
def test_the_others_share_what_is_left_as_they_did_before(
    weights: dict[str, int], percent: float
) -> None:
    after = weights_at({name: float(weight) for name, weight in weights.items()}, "3", percent)
    assert after.pop("3") == percent
    assert sum(after.values()) == pytest.approx(100 - percent)
    total = sum(weights.values())
    for name, weight in weights.items():
        assert after[name] == pytest.approx(weight / total * (100 - percent))
