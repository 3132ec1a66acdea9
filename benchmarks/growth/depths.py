"""Queue depth: submit and claim beside 1,000 to a million waiting jobs, at the level of scripts."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from depth import BUNDLE, POLICY, Line
from faults.waiting import until
from models import WIDTH, build, forward

from growth.bench import Bench, Pace
from growth.meter import redis_cpu_s, scripts
from growth.values import Curve, Dimension, Point, Sample, percentiles
from umbel_batching import record, wire
from umbel_batching.calls import Calls
from umbel_batching.census import lane_statuses
from umbel_batching.scripts import Runner
from umbel_registry import export_model

DEPTHS = (1_000, 10_000, 100_000, 1_000_000)
_QUICK = DEPTHS[:-1]
#: Calls of each kind in a round.
_CALLS = 16
_DRAIN_S = 300.0
_WORDS = {3: "Three", 4: "Four"}


def measure(pace: Pace) -> Dimension:
    """Fills a lane for each depth, submits and claims beside them in turn, and drains them all.

    Args:
        pace: how much is measured.
    """
    depths = _QUICK if pace.quick else DEPTHS
    with Bench(pace) as bench:
        lines = {depth: _line(bench, place) for place, depth in enumerate(depths, 1)}
        for depth, line in lines.items():
            line.fill(depth)
        points = {what: {depth: Point(depth) for depth in depths} for what in ("submit", "claim")}
        for _ in range(2 * pace.rounds + 1):
            for depth, line in lines.items():
                for what, samples in points.items():
                    act = line.fill if what == "submit" else line.claim
                    samples[depth].samples.append(_sample(bench, act))
        jobs = sum(depths)
        per_s = _drain(bench)
        checked = sum(_check(line, bench) for line in lines.values())
    return Dimension(
        key="depth",
        title="Queue depth",
        x="jobs that wait in the lane",
        how=f"{_WORDS[len(depths)]} lanes of one Redis, filled beforehand; calls of {BUNDLE} "
        "jobs, in turn on each, by the scripts themselves without client or worker. Afterwards "
        f"one worker drained all {jobs:,} jobs, {per_s:,.0f} each second.",
        latency=f"of one call, which submits or claims {BUNDLE} jobs",
        curves=[Curve(what, list(samples.values())) for what, samples in points.items()],
        checked=checked,
    )


def _line(bench: Bench, place: int) -> Line:
    """A lane of the model `tiny`, whose versions are the same but for their number."""
    folder = bench.folder / "models" / str(place)
    given: dict[str, Any] = {"version": str(place), "batching": POLICY.model_dump()}
    export_model(build("tiny"), np.zeros(WIDTH["tiny"], np.float32), folder, name="tiny", **given)
    bench.push(folder)
    return Line(Runner(bench.redis), Calls.of(bench.settings), str(place))


def _sample(bench: Bench, act: Any) -> Sample:
    """Some calls, one after the other; a claim is settled and released before the next."""
    script_us, _ = scripts(bench.redis)
    cpu_s = redis_cpu_s(bench.redis)
    seconds = [BUNDLE / act(BUNDLE) for _ in range(_CALLS)]
    jobs = BUNDLE * _CALLS
    return Sample(
        jobs_per_s=jobs / sum(seconds),
        redis_us=(redis_cpu_s(bench.redis) - cpu_s) * 1e6 / jobs,
        script_us=(scripts(bench.redis)[0] - script_us) / jobs,
        **percentiles(seconds),
    )


def _drain(bench: Bench) -> float:
    """Has one worker do all that waits; returns the jobs per second from when it serves on."""
    bench.start()
    bench.serve()
    begin, jobs = time.monotonic(), _waiting(bench)
    until(lambda: not _waiting(bench), "all lanes are empty", _DRAIN_S)
    return jobs / (time.monotonic() - begin)


def _waiting(bench: Bench) -> int:
    lanes = lane_statuses(bench.redis, bench.settings.namespace)
    return sum(lane.submitted - lane.succeeded for lane in lanes)


def _check(line: Line, bench: Bench) -> int:
    """Compares every result of a lane with a local forward; returns how many there are."""
    runner, calls = Runner(bench.redis), Calls.of(bench.settings)
    right = forward(build("tiny"), np.concatenate(line.rows))
    for at in range(0, len(line.uids), BUNDLE):
        uids = line.uids[at : at + BUNDLE]
        raws: list[bytes] = runner.run(calls.outcomes(line.lane.slot, uids))
        got = wire.stack([record.parse(raw).body for raw in raws])
        assert got is not None
        np.testing.assert_allclose(got, right[at : at + BUNDLE], rtol=1e-4, atol=1e-3)
    return len(line.uids)
