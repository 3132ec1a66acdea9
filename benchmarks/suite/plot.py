"""The picture of a run: rows per second of each contestant on a logarithmic axis."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Final

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from PIL import Image

from suite.names import EVERYBODY, MODELS, RAW, WAYS
from suite.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Colours that those who see fewer of them tell apart as well: umbel, its peers, the limit.
_UMBEL, _PEER, _LIMIT = "#0072b2", "#e69f00", "#888888"
_INK, _FAINT = "#333333", "#dddddd"
_WORDS: Final = {"tiny": "tiny: all the time is overhead", "mid": "mid: all the time is computing"}
#: Few shades keep the file small.
_DPI, _SHADES = 110, 64


def draw(results: Results, file: Path) -> None:
    """Writes the picture.

    Args:
        results: of a run.
        file: where to, a PNG.
    """
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    each = figure.subplots(1, len(MODELS), sharey=True)
    for axes, model in zip(each, MODELS, strict=True):
        _model(axes, results, model)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=_DPI)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.open(picture).quantize(_SHADES).save(file, optimize=True)


def colour(name: str) -> str:
    """The colour of a contestant.

    Args:
        name: of it.
    """
    if name in WAYS:
        return _UMBEL
    return _LIMIT if name == RAW else _PEER


def _model(axes: Axes, results: Results, model: str) -> None:
    places = range(len(EVERYBODY))
    axes.set_xscale("log")
    axes.set_yticks(list(places), list(EVERYBODY))
    axes.set_title(_WORDS[model], fontsize=11, color=_INK, loc="left")
    axes.set_xlabel("rows per second: median, and range of the rounds")
    for place, name in zip(places, EVERYBODY, strict=True):
        found = results.rate(name, model)
        if found is None:
            _not_measured(axes, place)
            continue
        paint = colour(name)
        axes.hlines(place, found.low, found.high, color=paint, linewidth=6, alpha=0.4)
        axes.plot(found.median, place, "o", color=paint, markersize=8)
        axes.annotate(
            f"{found.median:,.0f}",
            (found.high, place),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=_INK,
        )
    _frame(axes)


def _not_measured(axes: Axes, place: int) -> None:
    axes.annotate(
        "not measured",
        (0.02, place),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=9,
        color=_LIMIT,
    )


def _in_short(value: float, _: object) -> str:
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value:,.0f}"


def _frame(axes: Axes) -> None:
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * 3)  # room for the last label
    axes.xaxis.set_major_locator(LogLocator(10))
    axes.xaxis.set_major_formatter(FuncFormatter(_in_short))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", color=_FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK)
