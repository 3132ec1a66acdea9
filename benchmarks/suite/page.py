"""The page docs/benchmarks.md, its figures and its part of the README, of one run."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import Final

from faults.page import README, ROOT, between

from suite import plot, tables
from suite.names import ASYNC, BULK, CELERY, MODELS
from suite.results import Results
from suite.targets import ratio, verdicts

DOCS: Final = ROOT / "docs"
PAGE, FIGURES, PICTURE = "benchmarks.md", "benchmarks.json", "images/benchmarks.png"
NOTES: Final = Path(__file__).parent / "notes.md"
TEMPLATE: Final = Path(__file__).parent / "page.md"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
_WIDTH: Final = 128


def text(results: Results, notes: str) -> str:
    """The whole page.

    Args:
        results: of a run.
        notes: a section written by hand.
    """
    parts = {
        "targets": tables.targets(results),
        "throughput": tables.throughput(results),
        "missing": _missing(results),
        "whole_models": tables.whole_models(results),
        "closed_loop": tables.closed_loop(results),
        "open_loops": tables.open_loops(results),
        "unanswered": _unanswered(results),
        "notes": notes.strip(),
        "measured": _measured(results),
    }
    page = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(parts)
    return re.sub(r"\n{3,}", "\n\n", page)


def terminal(results: Results) -> str:
    """All tables, for a terminal."""
    parts = [
        tables.throughput(results),
        tables.whole_models(results),
        tables.closed_loop(results),
        tables.open_loops(results),
        _unanswered(results),
        tables.targets(results),
        _missing(results),
        _measured(results),
    ]
    return "\n\n".join(part for part in parts if part)


def short(results: Results) -> str:
    """What the README tells of it."""
    head = (
        "rows per second, in the client's hands",
        "plain Celery",
        "umbel, bulk",
        "umbel ÷ Celery",
    )
    rows = [(f"`{model}`", *_versus(results, model)) for model in MODELS]
    met = [each.passes for each in verdicts(results)]
    said = (
        f"{met.count(True)} of the {len(met)} targets are met, "
        f"{met.count(False)} {'falls' if met.count(False) == 1 else 'fall'} short"
        f"{f', {met.count(None)} were not measured' if None in met else ''}: "
        "[the whole table](docs/benchmarks.md)."
    )
    return f"{tables.table(head, rows)}\n\n{_wrapped(said)}"


def write(results: Results, folder: Path) -> Iterator[str]:
    """Writes page, figures and picture; in the project's own folder the README's part too.

    Args:
        results: of a run.
        folder: where to.

    Yields:
        The name of each file, once it is written.
    """
    (folder / PICTURE).parent.mkdir(parents=True, exist_ok=True)
    results.write(folder / FIGURES)
    results = Results.read(folder / FIGURES)  # rounded, so that the page can be made again from it
    yield FIGURES
    plot.draw(results, folder / PICTURE)
    yield PICTURE
    page = text(results, NOTES.read_text(encoding="utf-8"))
    (folder / PAGE).write_text(page, encoding="utf-8")
    yield PAGE
    if folder == DOCS:
        between(README, short(results), BEGIN, END)
        yield README.name


def _versus(results: Results, model: str) -> tuple[str, str, str]:
    celery, umbel = results.rate(CELERY, model), results.rate(BULK, model)
    times = ratio(results, BULK, CELERY, model)
    return (
        f"{celery.median:,.0f}" if celery else "not measured",
        f"{umbel.median:,.0f}" if umbel else "not measured",
        f"{times:.0f} x" if times is not None else "-",
    )


def _missing(results: Results) -> str:
    said = (f"{name} was not measured: {why}" for name, why in results.missing.items())
    return "\n\n".join(_wrapped(each) for each in said)


def _unanswered(results: Results) -> str:
    count = sum(each.unanswered for each in results.open)
    due = sum(each.tail.count for each in results.open)
    if not due:
        return ""
    capacity = f"The load is a share of {results.capacity:,.0f} rows per second ({ASYNC})."
    return _wrapped(f"{capacity} Of {due:,} requests {count} had no answer.")


def _measured(results: Results) -> str:
    facts = results.machine | results.versions
    rows = [(name, value) for name, value in facts.items()]
    others = results.others_cores
    company = "" if others is None else f" Other programs used {others:.2f} cores meanwhile."
    form = "the quick form, " if results.quick else ""
    idle = f" The idle system was watched for {results.idle_s:g} s." if results.idle_s else ""
    first = results.first_job
    tries = f" The first job on an idle lane: {first.count} tries." if first else ""
    end = f"{results.rounds} rounds, {form}{results.minutes:.0f} minutes.{tries}{idle}{company}"
    return f"{tables.table(('what', 'which'), rows)}\n\n{_wrapped(end)}"


def _wrapped(paragraph: str) -> str:
    return textwrap.fill(paragraph, _WIDTH, break_on_hyphens=False)
