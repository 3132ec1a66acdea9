"""How the demo shows what it found: figures, bars, and digits drawn in the terminal."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from rich.columns import Columns
from rich.console import Console
from rich.table import Table
from rich.text import Text

from umbel_cli.demo.figures import Figures

_SHADES = " ░▒▓█"
_BRIGHTEST, _SIDE = 16, 8
_BAR = 32
_SHOWN = 4


def show_figures(out: Console, batched: Figures, single: Figures) -> None:
    """Throughput and times, beside those of the same work done one job per forward.

    Args:
        out: where to print.
        batched: the run with micro-batches.
        single: the run with batches of one.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("micro-batches", justify="right")
    table.add_column("one job per forward", justify="right")
    for name, left, right in _rows(batched, single):
        table.add_row(name, left, right)
    out.print(table)
    ratio = batched.per_second / single.per_second
    out.print(
        f"\nSame model, same worker, same producers: micro-batches are [bold]{ratio:.1f} times"
        "[/bold] as quick here.\n(Producers, Redis and worker share the cores of this machine.)",
        soft_wrap=True,
    )


def _rows(*runs: Figures) -> Iterator[tuple[str, ...]]:
    yield "jobs, each submitted alone", *(f"{run.jobs:,}" for run in runs)
    yield "forwards", *(f"{run.batches:,}" for run in runs)
    yield "jobs per second", *(f"{run.per_second:,.0f}" for run in runs)
    yield "wait until computed, p50 / p95", *(_pair(run.wait_ms) for run in runs)
    yield "computing a batch, p50 / p95", *(_pair(run.compute_ms) for run in runs)


def _pair(spread: tuple[float, float]) -> str:
    return " / ".join(f"{value:,.1f}" for value in spread) + " ms"


def show_batches(out: Console, run: Figures) -> None:
    """Bars: how many batches there were of each size.

    Args:
        out: where to print.
        run: with micro-batches.
    """
    groups = _groups(run.sizes)
    most = max(groups.values())
    for name, count in groups.items():
        bar = "█" * max(1, round(_BAR * count / most))
        out.print(f"  {name:>8}  {bar} {count:,}")
    reasons = ", ".join(f"{name} {count:,}" for name, count in sorted(run.reasons.items()))
    out.print(f"  flushed by: {reasons}", style="dim")


def _groups(sizes: dict[int, int]) -> dict[str, int]:
    """Batch sizes gathered as 1, 2-3, 4-7 and so on."""
    groups: dict[str, int] = {}
    for size, count in sizes.items():
        low = 1 << (max(size, 1).bit_length() - 1)
        high = min(2 * low - 1, max(sizes))
        name = str(low) if high <= low else f"{low}-{high}"
        groups[name] = groups.get(name, 0) + count
    return groups


def show_digits(
    out: Console,
    pixels: NDArray[np.float32],
    labels: NDArray[np.int64],
    read: NDArray[np.int64],
) -> None:
    """Draws a few digits beside what the model read, wrong ones too if there are any.

    Args:
        out: where to print.
        pixels: digits ``[n, 64]``.
        labels: what they show ``[n]``.
        read: what the model read ``[n]``.
    """
    wrong = np.flatnonzero(read != labels)[: _SHOWN - 1]
    right = np.flatnonzero(read == labels)[: _SHOWN - len(wrong)]
    drawings = [_drawing(pixels[row], int(read[row]), int(labels[row])) for row in (*right, *wrong)]
    out.print(Columns(drawings, padding=(0, 3)))


def _drawing(pixels: NDArray[np.float32], read: int, label: int) -> Text:
    shades = np.rint(pixels.reshape(_SIDE, _SIDE) / _BRIGHTEST * (len(_SHADES) - 1)).astype(int)
    lines = ["".join(_SHADES[shade] * 2 for shade in row) for row in shades]
    drawing = Text("\n".join(lines) + "\n")
    if read == label:
        return drawing.append(f"read {read}".ljust(2 * _SIDE), style="green")
    return drawing.append(f"read {read}, is {label}".ljust(2 * _SIDE), style="bold red")
