"""The figures of a run as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from suite.names import BULK, CELERY, EVERYBODY, MODELS, RAW
from suite.quantiles import Spread, Tail
from suite.results import Open, Results
from suite.targets import ratio as of_medians
from suite.targets import verdicts

#: A generator whose 99th percentile is later than this measures itself.
LATE_MS: Final = 5.0
_NONE: Final = "-"
_NOT: Final = "not measured"
_WHOLE: Final = {"minilm": "MiniLM, sentences", "image": "600 kB images, two convolutions"}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; all columns but the first are numbers.

    Args:
        head: names of the columns.
        rows: cells.
    """
    rules = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rules, *rows))


def targets(results: Results) -> str:
    """What umbel must reach, and whether it does."""
    rows = [(v.what, v.target, v.figure or _NONE, v.word) for v in verdicts(results)]
    return table(("what", "must reach", "measured", "verdict"), rows)


def throughput(results: Results) -> str:
    """Rows per second of everybody."""
    head = ("model", "contestant", "rows per second", "range", "÷ plain Celery", "÷ raw torch")
    rows = [_speed(results, model, name) for model in MODELS for name in EVERYBODY]
    return table(head, rows)


def whole_models(results: Results) -> str:
    """Sentences and images."""
    rows = []
    for model, words in _WHOLE.items():
        raw, umbel = results.rate(RAW, model), results.rate(BULK, model)
        part = of_medians(results, BULK, RAW, model)
        rows.append((words, *_spread(raw), *_spread(umbel), times(part)))
    head = ("rows", "raw torch, per second", "range", "umbel, bulk", "range", "umbel ÷ raw")
    return table(head, rows)


def closed_loop(results: Results) -> str:
    """One client, one row at a time."""
    rows = [
        (
            each.contestant,
            *(f"{value:.1f}" for value in _quantiles(each.tail)),
            f"{min(each.medians):.1f} to {max(each.medians):.1f}",
        )
        for each in sorted(results.closed, key=lambda each: each.tail.p50)
    ]
    return table(("contestant", "p50", "p90", "p99", "max", "p50 of rounds"), rows)


def open_loops(results: Results) -> str:
    """Loads that do not wait."""
    head = ("arrivals", "load", "due per s", "answered per s", "p50", "p90", "p99", "p99.9", "max")
    rows = [
        (
            each.arrivals,
            f"{each.share:.0%}",
            f"{each.per_s:,.0f}",
            f"{each.answered_per_s:,.0f}",
            *(f"{each_ms:.1f}" for each_ms in _quantiles(each.tail, rare=True)),
            f"{each.late.p99:.1f}{' (late)' if is_late(each) else ''}",
        )
        for each in results.open
    ]
    return table((*head, "generator late by, p99"), rows)


def is_late(load: Open) -> bool:
    """Whether the generator could not keep up, so that the figures are partly its own.

    Args:
        load: a row.
    """
    return load.late.p99 > LATE_MS


def times(ratio: float | None) -> str:
    """A ratio in few digits.

    Args:
        ratio: ``None`` if it is not known.
    """
    if ratio is None:
        return _NONE
    if ratio < 0.01:
        return "< 0.01"
    return f"{ratio:,.{0 if ratio >= 100 else 1 if ratio >= 10 else 2}f}"


def _speed(results: Results, model: str, name: str) -> tuple[str, ...]:
    found = results.rate(name, model)
    ratios = (of_medians(results, name, other, model) for other in (CELERY, RAW))
    return (
        f"`{model}`",
        name,
        *_spread(found),
        *map(times, ratios),
    )


def _spread(found: Spread | None) -> tuple[str, str]:
    if found is None:
        return _NOT, _NONE
    return f"{found.median:,.0f}", f"{found.low:,.0f} to {found.high:,.0f}"


def _quantiles(tail: Tail, *, rare: bool = False) -> list[float]:
    return [tail.p50, tail.p90, tail.p99, *([tail.p99_9] if rare else []), tail.max]
