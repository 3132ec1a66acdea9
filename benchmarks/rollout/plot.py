"""The picture of a run: latency of every job by the version that answered, and what happened."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from faults.page import ROOT
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from PIL import Image

from rollout.figures import ALLOWED, SLICE_S, between

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rollout.verdict import Verdict

PICTURE = ROOT / "docs" / "images" / "rollout.png"
#: Colours that those who see fewer of them tell apart as well, from version 1 on.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
_INK, _FAINT = "#333333", "#bbbbbb"
_TICKS_MS = (2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
#: Events that are written out; a warm-up ends with its promotion.
_NAMES = {
    "push": "push {}",
    "promote": "warm, promote {}",
    "roll back": "roll back to {}",
    "promote again": "promote {}",
    "retire": "retire {}",
    "unload": "{} unloaded",
}
_STRIP_S = 0.25
#: Few shades keep the file small.
_DPI, _SHADES = 110, 64


def draw(verdict: Verdict, file: Path) -> None:
    """Writes the picture.

    Args:
        verdict: of the run.
        file: where to, a PNG: as SVG so many points would take megabytes.
    """
    figure = Figure(figsize=(12, 6.2), layout="constrained")
    above, below, last = figure.subplots(3, 1, sharex=True, height_ratios=(9, 1, 1))
    _latencies(above, verdict)
    _events((above, below, last), verdict)
    _slices(above, verdict)
    _lines(above, verdict)
    figure.legend(loc="outside lower center", markerscale=5, ncols=8, frameon=False)
    _shares(below, verdict)
    _company(last, verdict)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=_DPI)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.open(picture).quantize(_SHADES).save(file, optimize=True)


def colour(version: int) -> str:
    """The colour of a version."""
    return _COLOURS[(version - 1) % len(_COLOURS)]


def _latencies(axes: Axes, verdict: Verdict) -> None:
    run = verdict.run
    jobs, at = run.jobs, run.jobs.due - run.begin
    shown = at >= 0
    for version in np.unique(jobs.versions[jobs.versions > 0]).tolist():
        chosen = shown & (jobs.versions == version)
        axes.scatter(
            at[chosen],
            jobs.latency_ms[chosen],
            s=2.5,
            color=colour(version),
            linewidths=0,
            label=f"version {version}",
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(FixedLocator(_TICKS_MS))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    latency = jobs.latency_ms[shown & ~np.isnan(jobs.latency_ms)]
    top = max(float(latency.max()), ALLOWED * verdict.steady.p99)
    axes.set_ylim(float(latency.min()) * 0.85, top * 1.5)
    axes.set_xlim(0, run.end - run.begin)
    axes.set_ylabel("from due to result, ms")
    _frame(axes)


def _slices(axes: Axes, verdict: Verdict) -> None:
    """The 99th percentile of each slice of the run."""
    run = verdict.run
    edges = np.arange(run.begin, run.end - SLICE_S / 2, SLICE_S)
    found = [between(run.jobs, edge, edge + SLICE_S).p99 for edge in edges]
    at = edges + SLICE_S / 2 - run.begin
    axes.plot(at, found, color=_INK, linewidth=1.3, label=f"p99 of {SLICE_S:g} s")


def _events(each: Sequence[Axes], verdict: Verdict) -> None:
    begin = verdict.run.begin
    for event in verdict.run.events:
        if event.what in {"push", "warm"}:
            for axes in each:
                span = (event.begin - begin, event.end - begin)
                axes.axvspan(*span, color=_FAINT, alpha=0.5, linewidth=0, zorder=0)
        if event.what not in _NAMES:
            continue
        at = (event.begin if event.what == "push" else event.end) - begin
        for axes in each:
            axes.axvline(at, color=_INK, linewidth=0.6, alpha=0.6, zorder=1)
        each[0].annotate(
            _NAMES[event.what].format(event.version),
            (at, 1),
            xycoords=("data", "axes fraction"),
            xytext=(1, 4),
            textcoords="offset points",
            rotation=40,
            fontsize=8.5,
            color=_INK,
        )


def _lines(axes: Axes, verdict: Verdict) -> None:
    p99 = verdict.steady.p99
    for value, style, name in (
        (p99, "-", f"steady p99: {p99:.0f} ms"),
        (ALLOWED * p99, "--", f"{ALLOWED:g} x: {ALLOWED * p99:.0f} ms"),
    ):
        axes.axhline(value, color=_INK, linewidth=1, linestyle=style)
        axes.annotate(
            name,
            (1, value),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=_INK,
        )


def _shares(axes: Axes, verdict: Verdict) -> None:
    """Which part of the jobs due in each moment every version answered."""
    run = verdict.run
    edges = np.arange(0, run.end - run.begin + _STRIP_S, _STRIP_S)
    versions = np.unique(run.jobs.versions[run.jobs.versions > 0]).tolist()
    at = run.jobs.due - run.begin
    counts = np.array([np.histogram(at[run.jobs.versions == each], edges)[0] for each in versions])
    shares = counts / np.maximum(counts.sum(axis=0), 1)
    axes.stackplot(
        edges[:-1], shares, colors=[colour(each) for each in versions], step="post", linewidth=0
    )
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 1], ["0", "100 %"])
    axes.set_ylabel("share")
    _frame(axes)


def _company(axes: Axes, verdict: Verdict) -> None:
    """Cores that other programs used: what they did is felt too."""
    run = verdict.run
    edges = [span.begin - run.begin for span in run.company]
    cores = [span.cores for span in run.company]
    axes.fill_between(edges, cores, step="post", color=_FAINT, linewidth=0)
    axes.set_ylim(0, os.cpu_count() or 1)
    axes.set_ylabel("others,\ncores")
    axes.set_xlabel("seconds")
    _frame(axes)


def _frame(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK)
