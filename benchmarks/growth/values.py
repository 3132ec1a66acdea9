"""What is measured: samples of a point, points of a curve, curves of a dimension; and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

#: Figures of a sample, in the order in which they are written.
FIGURES = (
    "jobs_per_s",
    "p50_ms",
    "p99_ms",
    "batch",
    "redis_us",
    "worker_us",
    "client_us",
    "script_us",
    "script_calls",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One measurement of one point; ``None`` for what was not measured there.

    Attributes:
        jobs_per_s: jobs per second, results in the hands of who asked.
        p50_ms: median latency.
        p99_ms: its 99th percentile.
        batch: jobs of a batch, on average.
        redis_us: microseconds of CPU that Redis took for each job.
        worker_us: the same, of all workers.
        client_us: the same, of all producers.
        script_us: microseconds of Redis inside scripts for each job.
        script_calls: script calls for each job.
    """

    jobs_per_s: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    batch: float | None = None
    redis_us: float | None = None
    worker_us: float | None = None
    client_us: float | None = None
    script_us: float | None = None
    script_calls: float | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a dimension.

    Attributes:
        x: the value.
        samples: what was measured there, one a round.
    """

    x: int
    samples: list[Sample] = field(default_factory=list)

    def all(self, figure: str) -> list[float]:
        """What a figure was in each sample that has it.

        Args:
            figure: one of ``FIGURES``.
        """
        found = (getattr(sample, figure) for sample in self.samples)
        return [value for value in found if value is not None]

    def median(self, figure: str) -> float | None:
        """The median of a figure; ``None`` where it was not measured.

        Args:
            figure: one of ``FIGURES``.
        """
        values = self.all(figure)
        return statistics.median(values) if values else None


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of one contestant.

    Attributes:
        name: of the curve.
        points: by rising x.
    """

    name: str
    points: list[Point]

    def growth(self) -> float:
        """The highest throughput, as a multiple of that at the first point."""
        rates = [point.median("jobs_per_s") or 0.0 for point in self.points]
        return max(rates) / rates[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """Everything that was measured along one dimension.

    Attributes:
        key: short name, such as ``batch``.
        title: for people.
        x: what the values are.
        how: what was done, in sentences.
        latency: what the latency is of, in words.
        curves: the figures.
        checked: answers that were compared; each was right, or there were no figures.
        others: cores that other programs used meanwhile, if that is known.
        seconds: that it took.
    """

    key: str
    title: str
    x: str
    how: str
    latency: str
    curves: list[Curve]
    checked: int = 0
    others: float | None = None
    seconds: float = 0.0

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> Self:
        """Reads what ``plain`` wrote."""
        curves = [
            Curve(curve["name"], [_point(point) for point in curve["points"]])
            for curve in found["curves"]
        ]
        return cls(**{**found, "curves": curves})


def _point(found: Mapping[str, Any]) -> Point:
    return Point(found["x"], [Sample(**sample) for sample in found["samples"]])


def plain(dimension: Dimension) -> dict[str, Any]:
    """A dimension as JSON takes it, with the median of each figure beside the samples.

    Args:
        dimension: the dimension.
    """
    told = asdict(dimension)
    for curve, written in zip(dimension.curves, told["curves"], strict=True):
        for point, line in zip(curve.points, written["points"], strict=True):
            medians = {figure: point.median(figure) for figure in FIGURES}
            line["median"] = {key: rounded(value) for key, value in medians.items()}
            line["samples"] = [_known(sample) for sample in line["samples"]]
    return told


def _known(sample: Mapping[str, float | None]) -> dict[str, float]:
    return {key: rounded(value) for key, value in sample.items() if value is not None}  # type: ignore[misc]


def rounded(value: float | None) -> float | None:
    """A number with four digits that count, which is more than any timing is good for."""
    return None if value is None else float(f"{value:.4g}")


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 99th percentile, in milliseconds, by the names of the figures.

    Args:
        seconds: of each job.
    """
    if not seconds:
        return {}
    ordered = sorted(seconds)
    last = len(ordered) - 1
    return {
        "p50_ms": ordered[round(last * 0.5)] * 1000,
        "p99_ms": ordered[round(last * 0.99)] * 1000,
    }
