"""The picture: six small multiples, each with throughput above and latency below."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from faults.page import ROOT
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from PIL import Image

from growth.values import Curve, Dimension

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE = ROOT / "docs" / "images" / "growth.png"
#: Colours that those who see fewer of them tell apart as well, and signs for those who see none.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
_SIGNS = ("o", "s", "^", "D")
_INK, _FAINT, _GRID = "#333333", "#888888", "#dddddd"
_COLUMNS, _DPI, _SHADES = 3, 110, 128
#: Up to so many times its first value an axis is linear.
_LOG_FROM = 8.0


def draw(dimensions: Sequence[Dimension], file: Path) -> None:
    """Writes the picture.

    Args:
        dimensions: what was measured.
        file: where to, a PNG.
    """
    rows = -(-len(dimensions) // _COLUMNS)
    figure = Figure(figsize=(14, 5.2 * rows), layout="constrained")
    parts = figure.subfigures(rows, _COLUMNS, squeeze=False, wspace=0.03, hspace=0.04)
    for part, dimension in zip(parts.flat, dimensions, strict=False):
        above, below = part.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        part.suptitle(dimension.title, fontsize=13, color=_INK)
        _throughput(above, dimension)
        _latency(below, dimension)
        _across(below, dimension)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=_DPI)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.open(picture).quantize(_SHADES).save(file, optimize=True)


def _styled(dimension: Dimension) -> Iterator[tuple[Curve, str, str, bool]]:
    """Each curve with its colour and sign; one without latency shares those of its like."""
    styles: dict[str, tuple[str, str]] = {}
    for curve in dimension.curves:
        limit = not any(point.all("p50_ms") for point in curve.points)
        like = curve.name.partition(",")[0] if limit else curve.name
        place = len(styles) % len(_COLOURS)
        style = styles.setdefault(like, (_COLOURS[place], _SIGNS[place]))
        yield curve, *style, limit


def _throughput(axes: Axes, dimension: Dimension) -> None:
    for curve, colour, sign, limit in _styled(dimension):
        xs = [point.x for point in curve.points]
        rates = [point.all("jobs_per_s") for point in curve.points]
        medians = [point.median("jobs_per_s") or 0.0 for point in curve.points]
        if limit:
            axes.plot(xs, medians, ":", color=colour, linewidth=1.3, label=curve.name)
            continue
        axes.fill_between(
            xs, [min(rate) for rate in rates], [max(rate) for rate in rates],
            color=colour, alpha=0.15, linewidth=0,
        )  # fmt: skip
        axes.plot(xs, medians, sign, linestyle="-", color=colour, markersize=5, label=curve.name)
    _up(axes, [v for c in dimension.curves for p in c.points for v in p.all("jobs_per_s")])
    axes.set_ylabel("jobs/s", color=_INK)
    axes.legend(fontsize=8.5, frameon=False)
    _frame(axes)


def _latency(axes: Axes, dimension: Dimension) -> None:
    for curve, colour, sign, limit in _styled(dimension):
        if limit:
            continue
        xs = [point.x for point in curve.points]
        for figure, line, size in (("p50_ms", "-", 4.0), ("p99_ms", "--", 0.0)):
            ys = [point.median(figure) or 0.0 for point in curve.points]
            width = 1.5 if size else 1.0
            axes.plot(xs, ys, sign, linestyle=line, color=colour, markersize=size, linewidth=width)
    names = ("p50_ms", "p99_ms")
    medians = (p.median(name) for c in dimension.curves for p in c.points for name in names)
    _up(axes, [median for median in medians if median is not None])
    axes.set_ylabel("ms: p50, dashed p99", color=_INK)
    _frame(axes)


def _up(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis where values differ much, else one from zero on."""
    if max(values) / max(min(values), 1e-9) < _LOG_FROM:
        axes.set_ylim(0, max(values) * 1.15)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=20))
    if max(values) / min(values) > 1000:
        axes.yaxis.set_major_locator(LogLocator(numticks=20))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def _across(axes: Axes, dimension: Dimension) -> None:
    xs = sorted({point.x for curve in dimension.curves for point in curve.points})
    if xs[-1] > 4 * len(xs) or xs[-1] == 8:
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(xs))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.set_xlabel(dimension.x, color=_INK)


def short(value: float) -> str:
    """A number as it fits on an axis: 20k for 20,000.

    Args:
        value: the number.
    """
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if value >= unit * 0.9995 and (value >= 10_000 or value % 1000 == 0):
            return f"{value / unit:.3g}{letter}"
    return f"{value:.4g}"


def _frame(axes: Axes) -> None:
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(colors=_INK, labelsize=8.5)
