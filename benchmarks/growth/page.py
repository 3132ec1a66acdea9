"""The figures in tables, with what explains them, as docs/growth.md."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

from faults.page import ROOT

from growth.plot import PICTURE
from growth.store import Report
from growth.values import Dimension, Point

PAGE = ROOT / "docs" / "growth.md"
#: By hand: where each curve bends and why, below a heading with the key of its dimension.
REASONS = Path(__file__).with_name("why.md")
_HEAD = Path(__file__).with_name("head.md")
_WIDTH = 128
#: Columns of a table, and how many digits stand behind the point of small values.
_COLUMNS = {
    "jobs_per_s": "jobs/s",
    "p50_ms": "p50, ms",
    "p99_ms": "p99, ms",
    "batch": "mean batch",
    "redis_us": "Redis, µs",
    "worker_us": "worker, µs",
    "client_us": "client, µs",
    "script_us": "in scripts, µs",
    "script_calls": "calls",
}


def write(report: Report, file: Path = PAGE, reasons: Path = REASONS) -> None:
    """Writes the page.

    Args:
        report: the figures.
        file: where to.
        reasons: file of what explains them.
    """
    file.write_text(text(report, read_reasons(reasons)), encoding="utf-8")


def text(report: Report, why: dict[str, str]) -> str:
    """The page.

    Args:
        report: the figures.
        why: what explains them, by key of the dimension.

    Raises:
        ValueError: a dimension is not explained, or there is no such dimension.
    """
    keys = {dimension.key for dimension in report.dimensions}
    if keys != why.keys():
        odd = ", ".join(sorted(keys ^ why.keys()))
        raise ValueError(f"{REASONS.name} and the figures do not speak of the same: {odd}")
    rounds = max(len(p.samples) for d in report.dimensions for c in d.curves for p in c.points)
    head = (
        _HEAD.read_text(encoding="utf-8")
        .rstrip()
        .format(
            picture=f"{PICTURE.parent.name}/{PICTURE.name}",
            machine=_wrapped(_machine(report)),
            rounds=f"{min(_rounds(report))} to {rounds}",
        )
    )
    return "\n\n".join([head, *(_section(d, why[d.key]) for d in report.dimensions)]) + "\n"


def _rounds(report: Report) -> Iterator[int]:
    for dimension in report.dimensions:
        for curve in dimension.curves:
            yield from (len(point.samples) for point in curve.points if point.all("p50_ms"))


def read_reasons(file: Path = REASONS) -> dict[str, str]:
    """What explains the figures, by key of the dimension.

    Args:
        file: Markdown with a heading of second rank for each.
    """
    parts = f"\n{file.read_text(encoding='utf-8')}".split("\n## ")[1:]
    pairs = (part.partition("\n") for part in parts)
    return {key.strip(): body.strip() for key, _, body in pairs}


def _machine(report: Report) -> str:
    machine, versions = report.machine, report.versions
    programs = ", ".join(f"{name} {number}" for name, number in versions.items())
    checked = sum(dimension.checked for dimension in report.dimensions)
    minutes = sum(dimension.seconds for dimension in report.dimensions) / 60
    return (
        f"Measured on {machine['processor']} with {machine['cores']} cores, which Redis, workers "
        f"and producers share, and {machine['memory_gib']} GiB of memory ({machine['system']}); "
        f"{programs}. {checked:,} answers in {minutes:.0f} minutes. All settings are as delivered, "
        "but Redis does not rewrite its append-only file meanwhile."
    )


def _section(dimension: Dimension, why: str) -> str:
    latency = f"Latency: {dimension.latency}."
    if dimension.others is not None:
        latency += f" Other programs used {dimension.others:.1f} cores meanwhile."
    parts = [
        f"## {dimension.title}",
        _wrapped(dimension.how),
        _wrapped(latency),
        table(dimension),
        f"**Where it bends and why.** {why}",
    ]
    return "\n\n".join(parts)


def _wrapped(paragraph: str) -> str:
    return textwrap.fill(paragraph, _WIDTH, break_on_hyphens=False, break_long_words=False)


def table(dimension: Dimension) -> str:
    """The figures of a dimension: medians, and the range of the throughput.

    Args:
        dimension: the dimension.
    """
    shown = [figure for figure in _COLUMNS if any(_medians(dimension, figure))]
    heads = ["", dimension.x, *(_COLUMNS[figure] for figure in shown)]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for curve in dimension.curves:
        for point in curve.points:
            cells = [curve.name, f"{point.x:,}", *(_cell(point, figure) for figure in shown)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _medians(dimension: Dimension, figure: str) -> Iterator[float | None]:
    for curve in dimension.curves:
        yield from (point.median(figure) for point in curve.points)


def _cell(point: Point, figure: str) -> str:
    median = point.median(figure)
    if median is None:
        return ""
    if figure != "jobs_per_s" or len(point.samples) == 1:
        return number(median)
    values = point.all(figure)
    return f"{number(median)} ({number(min(values))} to {number(max(values))})"


def number(value: float) -> str:
    """A number with as many digits as are worth reading.

    Args:
        value: not negative.
    """
    digits = 0 if value >= 99.5 else 1 if value >= 9.95 else 2
    return f"{value:,.{digits}f}"
