"""The figures of a run in a table and words, for docs/models.md."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterator, Sequence
from itertools import pairwise

from faults.page import machine

from adaptive.contestants import CONTESTANTS, LARGEST, OBJECTIVE_MS
from adaptive.search import Duel
from adaptive.turn import Turn

BEGIN, END = "<!-- adaptive:begin -->", "<!-- adaptive:end -->"
_WIDTH = 100


def text(duels: Sequence[Duel], turns: Sequence[Turn], others: float | None) -> str:
    """Everything that stands between the markers.

    Args:
        duels: one for each model.
        turns: of the machine.
        others: cores that other programs used meanwhile; ``None``: not known.
    """
    used = "" if others is None else f" Other programs used {others:.1f} of the cores meanwhile."
    parts = ["\n".join(_table(duels)), _wrapped(_how()), *_turns(turns)]
    return "\n\n".join([*parts, _wrapped(f"Measured with {machine()}.{used}")])


def _table(duels: Sequence[Duel]) -> Iterator[str]:
    yield "| model | best static size | its jobs/s | adaptive, jobs/s | part | size, a + b·n |"
    yield "| --- | ---: | ---: | ---: | ---: | --- |"
    what = {each.name: each.what for each in CONTESTANTS}
    for each in duels:
        told = each.tuned
        chosen = (
            "-" if told is None else f"{told.size}, {told.fixed_ms:.3g} + {told.per_job_ms:.3g}·n"
        )
        yield (
            f"| {each.name} ({what[each.name]}) | {each.best} | {_median(each.static)} | "
            f"{_median(each.adaptive)} | {each.part:.2f} | {chosen} |"
        )


def _median(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def _how() -> str:
    return (
        f"Jobs per second are the highest rate, arrivals at random, at which 95 of 100 jobs end "
        f"within {OBJECTIVE_MS} ms: the median of interleaved rounds, with their range. "
        f"Static sizes are the powers of two up to {LARGEST}."
    )


def _turns(turns: Sequence[Turn]) -> Iterator[str]:
    for each in turns:
        took = "never" if each.right_s is None else f"after {each.right_s:g} s"
        sizes = [f"{look.size:.0f}" for look in each.looks[::4]]
        changes = [sizes[0], *(now for before, now in pairwise(sizes) if now != before)]
        yield _wrapped(
            f"When {each.what} beside a worker that is never idle, batches are right again {took} "
            f"(within {OBJECTIVE_MS / 2:g} ms and about as large as they stay); their mean sizes, "
            f"every two seconds: {', '.join(changes)}."
        )


def _wrapped(paragraph: str) -> str:
    return textwrap.fill(paragraph, _WIDTH, break_on_hyphens=False)
