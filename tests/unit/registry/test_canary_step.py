"""Each rule by which a canary waits, goes on, ends well or is rolled back."""

from __future__ import annotations

import re
from typing import Any

import pytest

from umbel_registry.canary_step import Count, Evidence, LaneCounts, decide, holds, summary
from umbel_registry.figures import Figures, Tallies
from umbel_registry.fleet import Readiness
from umbel_registry.traffic import Canary

READY = Readiness(8, 8, (), {})
NOBODY = Readiness(0, 0, (), {})
SECOND = 1000


def canary(**changes: Any) -> Canary:
    """At its second step, 5 %, since the time 0."""
    plan = {
        "version": "4",
        "steps": (1.0, 5.0, 25.0, 100.0),
        "every_s": 60.0,
        "min_jobs": 50,
        "max_error_rate": 0.01,
        "max_p95_ms": 50.0,
        "step": 1,
        "since_ms": 0,
        "started_ms": 0,
        "by": "ann@host",
        "before": {"3": 1.0},
        "state": "stepping",
    }
    return Canary.model_validate(plan | changes)


def warming(**changes: Any) -> Canary:
    return canary(state="warming", step=-1, **changes)


def figures(
    jobs: int, failed: int = 0, ms: float = 10.0, size: int = 1, slow: int = 0, slow_ms: float = 80
) -> Figures:
    """Batches of one size; the first jobs fail, the last ones are slow."""
    tallies = Tallies()
    latencies = [ms] * (jobs - slow) + [slow_ms] * slow
    for start in range(0, jobs, size):
        some = latencies[start : start + size]
        tallies.add("m", 1, "4", some, 1.0, max(0, min(len(some), failed - start)))
    return tallies.take().get(("m", 1, "4"), Figures())


def at(
    seconds: float, own: Figures | None = None, readiness: Readiness = READY, **more: Any
) -> tuple[str, str]:
    """What is decided at a time, and why; the plan may be changed."""
    plan = {name: more.pop(name) for name in [*more] if name in Canary.model_fields}
    evidence = Evidence(own=own or Figures(), **more)
    decision = decide(canary(**plan), round(seconds * SECOND), readiness, evidence)
    return decision.action, decision.reason


def test_the_first_step_waits_until_all_workers_are_warm() -> None:
    half = Readiness(8, 4, ("b:2",), {})
    now = 10 * SECOND
    assert decide(warming(), now, half, Evidence()).action == "wait"
    assert decide(warming(), now, half, Evidence()).reason == "is being loaded"
    assert decide(warming(), now, NOBODY, Evidence()).reason == "no live worker serves its queue"
    ready = decide(warming(), now, READY, Evidence())
    assert (ready.action, ready.reason) == ("step", "loaded and warm on all 8 slots of its workers")


def test_a_version_that_cannot_be_loaded_is_rolled_back_at_once() -> None:
    failed = Readiness(8, 4, ("b:2",), {"b:2": "ModelLoadFailed: no module named magic."})
    decision = decide(warming(), SECOND, failed, Evidence())
    assert decision.action == "roll_back"
    assert decision.reason == "could not be loaded on b:2: ModelLoadFailed: no module named magic"


@pytest.mark.parametrize(
    ("readiness", "reason"),
    [
        (Readiness(8, 4, ("b:2", "c:3"), {}), "4 of 8 slots ready, not so b:2 and 1 more"),
        (NOBODY, "no live worker serves its queue"),
    ],
)
def test_loading_takes_no_longer_than_allowed(readiness: Readiness, reason: str) -> None:
    early = decide(warming(warm_s=90.0), 89 * SECOND, readiness, Evidence())
    late = decide(warming(warm_s=90.0), 90 * SECOND, readiness, Evidence())
    assert early.action == "wait"
    assert late.action == "roll_back"
    assert late.reason == f"not loaded on all workers in 90 s: {reason}"


def test_a_good_step_lasts_as_long_and_has_as_many_jobs_as_asked() -> None:
    assert at(59, figures(500)) == ("wait", "")
    assert at(60, figures(49)) == ("wait", "waits until 50 of its jobs have ended")
    assert at(60, figures(50)) == ("step", "at 5 %: 0 of 50 jobs failed, p95 10.2 ms")


def test_no_jobs_are_no_success_however_long_it_takes() -> None:
    assert at(1e6) == ("wait", "no job has come to it yet")
    assert at(1e6, running=1) == ("wait", "its first job has not ended yet")
    assert at(1e6, figures(3, failed=1))[0] == "wait"


def test_the_last_step_ends_it() -> None:
    assert at(60, figures(50), step=3)[0] == "promote"
    action, reason = at(60, figures(50), steps=(1.0, 5.0))
    assert action == "hold"
    assert reason.startswith("holds at 5 % as asked; at 5 %: 0 of 50 jobs failed")
    assert holds(canary(state="stopped", reason=reason))
    assert not holds(canary(state="stopped", reason="by hand"))


@pytest.mark.parametrize(
    ("jobs", "failed", "action"),
    [
        (4, 4, "wait"),  # too few, even where all fail
        (5, 5, "roll_back"),
        (19, 18, "wait"),  # too few where not all do
        (20, 2, "roll_back"),
        (20, 1, "wait"),  # one never suffices
        (300, 4, "wait"),  # 1.3 %, but maybe as few as 0.5 %
        (300, 9, "roll_back"),  # 3 %, at least 1.6 %
    ],
)
def test_errors_roll_back_as_soon_as_they_are_sure(jobs: int, failed: int, action: str) -> None:
    assert at(1, figures(jobs, failed))[0] == action


def test_the_reason_names_the_figures() -> None:
    own, others = figures(300, 9), figures(2000, 2)
    assert at(1, own, others=others)[1] == (
        "at 5 %: 9 of 300 jobs failed, 3 %, with 95 % confidence at least 1.59 %; the limit "
        "is 1 %; of the other versions 0.1 % failed"
    )


def test_jobs_that_fail_together_are_one_event() -> None:
    """One batch of 40 among 1000 jobs: 4 %, which 40 failures for themselves would make sure."""
    assert at(1, figures(1000, 40))[0] == "roll_back"
    assert at(1, figures(1000, 40, size=40))[0] == "wait"
    assert at(1, figures(200, 16, size=16))[0] == "wait"
    assert at(1, figures(200, 32, size=16))[0] == "roll_back"


def test_what_is_neither_good_nor_surely_bad_is_waited_for_ten_times_as_long() -> None:
    own = figures(300, 4)
    waits = "more fail than are allowed, but too few to be sure"
    assert at(60, own) == ("wait", waits)
    assert at(599, own) == ("wait", waits)
    action, reason = at(600, own)
    assert action == "roll_back"
    assert reason == (
        "at 5 %: not better after 10 min: 4 of 300 jobs failed, 1.33 %; the limit is 1 %"
    )


def test_no_version_is_blamed_for_what_befalls_the_others_too() -> None:
    own = figures(300, 9)
    waits = "more fail than are allowed, of the other versions as well"
    assert at(60, own, others=figures(3000, 90)) == ("wait", waits)
    assert at(60, figures(300, 7), others=figures(3000, 45))[0] == "wait"  # 2.3 % may be 1.5 %
    assert at(60, own, others=figures(3000, 30))[0] == "roll_back"  # 1 % is allowed
    assert at(60, own, others=figures(200, 2))[0] == "roll_back"  # maybe less than that
    assert at(60, figures(300, 60), others=figures(3000, 90))[0] == "roll_back"  # far worse
    assert at(600, own, others=figures(3000, 90))[0] == "roll_back"


def test_slow_versions_are_rolled_back_as_soon_as_that_is_sure() -> None:
    surely = figures(400, slow=40)  # a tenth takes 80 ms
    action, reason = at(1, surely)
    assert action == "roll_back"
    assert re.fullmatch(
        r"at 5 %: p95 of 400 jobs is 80\.\d ms, with 95 % confidence at least 78\.\d ms; the limit "
        r"is 50 ms",
        reason,
    )
    assert at(1, surely, max_p95_ms=None)[0] == "wait"
    assert at(60, surely, max_p95_ms=None)[0] == "step"
    perhaps = figures(100, slow=6)
    waits = "its p95 is more than is allowed, but that is not sure yet"
    assert at(60, perhaps) == ("wait", waits)
    assert at(600, perhaps)[0] == "roll_back"
    assert at(60, figures(100, slow=4))[0] == "step"


def test_a_few_slow_batches_tell_nothing_of_a_version() -> None:
    assert at(1, figures(19, ms=80))[0] == "wait"
    assert at(1, figures(20, ms=80))[0] == "roll_back"
    assert at(1, figures(256, ms=80, size=64))[0] == "wait"
    assert at(1, figures(320, ms=80, size=64))[0] == "roll_back"
    assert at(1, figures(640, slow=64, size=64))[0] == "wait"  # one batch of ten


def test_a_slow_hour_of_all_versions_is_waited_for() -> None:
    own = figures(400, ms=80)
    waits = "its p95 is more than is allowed, of the other versions as well"
    assert at(60, own, others=figures(4000, ms=80)) == ("wait", waits)
    assert at(60, figures(400, ms=300), others=figures(4000, ms=80))[0] == "roll_back"
    assert "of the other versions it is 10.2 ms" in at(60, own, others=figures(4000))[1]


def test_jobs_that_never_end_roll_it_back() -> None:
    stuck: dict[str, Any] = {"waiting": 12, "running": 1, "oldest_ms": 70_000, "silent_ms": 65_000}
    assert at(80, **stuck) == (
        "roll_back",
        "at 5 %: no job of it ended in 65 s; jobs waiting: 12, batches running: 1",
    )
    assert at(59, **stuck)[0] == "wait"  # the step itself is younger
    assert at(80, **(stuck | {"oldest_ms": 59_000}))[0] == "wait"
    assert at(80, **(stuck | {"silent_ms": 59_000}))[0] == "wait"
    assert at(80, every_s=5.0, **(stuck | {"silent_ms": 29_000}))[0] == "wait"
    assert at(80, every_s=5.0, **(stuck | {"silent_ms": 31_000}))[0] == "roll_back"
    assert at(80, readiness=NOBODY, **stuck) == ("wait", "no live worker serves its queue")


def test_the_lane_tells_what_no_worker_can_measure() -> None:
    expired = LaneCounts(succeeded=100, expired=6)
    assert at(1, figures(100), lane=expired)[0] == "roll_back"
    lost = LaneCounts(succeeded=100, failed=6, leases_lost=3)
    assert at(1, figures(100), lane=lost)[0] == "roll_back"
    late = LaneCounts(succeeded=100, failed=6)  # figures come a second later
    assert at(1, figures(100), lane=late)[0] == "wait"


def test_the_lane_alone_is_believed_where_workers_measure_nothing() -> None:
    good, bad = LaneCounts(succeeded=100), LaneCounts(succeeded=90, failed=10)
    assert at(60, lane=bad)[0] == "roll_back"
    assert at(60, lane=good, max_p95_ms=None)[0] == "step"
    assert at(60, lane=good) == ("wait", "no worker tells how long its jobs took")
    cached = LaneCounts(succeeded=5000, shared=4900)
    assert at(60, figures(100), lane=cached) == (
        "step",
        "at 5 %: 0 of 100 jobs failed, p95 10.2 ms",
    )


def test_counters_that_fell_count_as_nothing() -> None:
    before = LaneCounts(10, 5, 1, 0, 0)
    assert LaneCounts(12, 4, 1, 0, 2).since(before) == LaneCounts(2, 0, 0, 0, 2)


def test_a_decision_depends_on_nothing_else() -> None:
    seen = Evidence(own=figures(300, 9), others=figures(100))
    first = decide(canary(), 1, READY, seen)
    assert decide(canary(), 1, READY, seen) == first
    assert summary(Evidence()) == "no job yet"
    assert Count(0, 0, 0.0).rate == 0.0
