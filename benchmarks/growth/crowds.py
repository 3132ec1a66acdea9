"""Producers and workers: one to eight processes that submit, one to four that compute."""

from __future__ import annotations

from growth.bench import Bench, Pace
from growth.crew import Task
from growth.meter import spent
from growth.values import Curve, Dimension, Point, Sample, percentiles

PRODUCERS, WORKERS, CONCURRENCY = (1, 2, 4, 8), (1, 2, 3, 4), (1, 2, 4)


def producers(pace: Pace) -> Dimension:
    """Measures producers: in bulk, and each with one job at a time.

    Args:
        pace: how much is measured.
    """
    counts = pace.some(PRODUCERS)
    with Bench(pace, max(counts)) as bench:
        bench.start()
        bench.serve()
        task = bench.model("tiny", "tiny")
        jobs = {use: bench.calibrated(task, use) for use in counts}
        singles = {use: _singles(bench, task, use) for use in counts}
        bulk, single = ({use: Point(use) for use in counts} for _ in range(2))
        for _ in range(pace.rounds):
            for use in counts:
                bulk[use].samples.append(bench.sample(task, jobs[use], use))
                single[use].samples.append(_single(bench, task, singles[use], use))
        curves = [
            Curve("tiny, map", list(bulk.values())),
            Curve("tiny, one job at a time", list(single.values())),
        ]
        checked = bench.checked
    return Dimension(
        key="producers",
        title="Producers",
        x="producer processes",
        how="One worker, batches of up to 64. With `map` each producer has up to 8,192 jobs under "
        "way; in the other curve each submits a job, waits for its result and submits the next.",
        latency="of a job at half of that throughput, from when it was due; one job at a time: "
        "from submit to result",
        curves=curves,
        checked=checked,
    )


def _singles(bench: Bench, task: Task, use: int) -> int:
    """How many jobs, one at a time, take long enough."""
    rate: float = bench.ask("single", task, 30 * use, use=use).per_s
    return max(30 * use, round(rate * bench.pace.bulk_s))


def _single(bench: Bench, task: Task, count: int, use: int) -> Sample:
    meter = bench.meter()
    before = meter.read()
    outcome = bench.ask("single", task, count, use=use)
    found = {**spent(before, meter.read()), "client_us": outcome.client_us}
    return Sample(jobs_per_s=outcome.per_s, **found, **percentiles(outcome.times))


def workers(pace: Pace) -> Dimension:
    """Measures workers, and concurrency inside one, with both models.

    Args:
        pace: how much is measured.
    """
    counts, widths = pace.some(WORKERS), pace.some(CONCURRENCY)
    with Bench(pace, producers=2) as bench:
        for number in range(max(counts)):
            bench.start([_queue(count) for count in counts if count > number])
        for width in widths[1:]:
            bench.start([_queue(-width)], concurrency=width)
        bench.serve()
        curves = [curve for kind in ("tiny", "mid") for curve in _pair(bench, kind, counts, widths)]
        checked = bench.checked
    return Dimension(
        key="workers",
        title="Workers",
        x="worker processes, or batches side by side in one",
        how="Two producers that call `map`, batches of up to 64. All workers run all the time; a "
        "model's queue decides how many of them serve it. One torch thread for each batch.",
        latency="of a job at half of that throughput, from when it was due",
        curves=curves,
        checked=checked,
    )


def _queue(place: int) -> str:
    """Of so many workers, or, below zero, of one with so much concurrency."""
    return f"workers-{place}" if place > 0 else f"concurrency-{-place}"


def _pair(bench: Bench, kind: str, counts: list[int], widths: list[int]) -> list[Curve]:
    """Both curves of a model in the same rounds; one worker is the first point of each."""
    places = [*counts, *(-width for width in widths[1:])]
    tasks = {
        place: bench.model(f"{kind}-{_queue(place)}", kind, queue=_queue(place)) for place in places
    }

    def point(_: int, task: Task, count: int) -> Sample:
        return bench.sample(task, count, use=2)

    points = bench.rounds(tasks, point)
    return [
        Curve(f"{kind}, workers", points[: len(counts)]),
        Curve(f"{kind}, concurrency", [Point(abs(p.x), p.samples) for p in _wide(points, counts)]),
    ]


def _wide(points: list[Point], counts: list[int]) -> list[Point]:
    return [points[0], *points[len(counts) :]]
