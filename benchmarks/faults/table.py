"""The fault table: in the terminal, and as Markdown for the page and the README."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from faults.result import Row

_COLUMNS = (
    "accepted",
    "visible",
    "lost",
    "wrong",
    "published twice",
    "computed twice",
    "p50 ms",
    "max ms",
)
_NONE = "\N{EN DASH}"


def cells(row: Row) -> list[str]:
    """The figures of a row, as text, in the order of the columns."""
    counts = (row.accepted, row.visible, row.lost, row.wrong)
    twice = (row.published_twice, row.computed_twice)
    return [*(f"{count:,}" for count in (*counts, *twice)), _ms(row.p50_ms), _ms(row.max_ms)]


def _ms(value: float | None) -> str:
    return _NONE if value is None else f"{value:,.0f}"


def show(out: Console, rows: Iterable[Row]) -> None:
    """Prints the table, and below it every promise that was broken.

    Args:
        out: where to.
        rows: of the scenarios, in order.
    """
    rows = list(rows)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column("fault")
    for name in _COLUMNS:
        table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
    table.add_column("")
    for row in rows:
        mark = "[green]kept[/green]" if not row.problems() else "[bold red]BROKEN[/bold red]"
        table.add_row(row.title, *cells(row), mark)
    out.print(table)
    for row in rows:
        if row.note:
            out.print(f"[dim]{row.name}: {row.note}[/dim]", soft_wrap=True)
        for problem in row.problems():
            out.print(f"[red]{row.name}: {problem}[/red]", soft_wrap=True)


def full(rows: Iterable[Row]) -> str:
    """The table as Markdown, with what was done in each row."""
    head = ["fault", *_COLUMNS, "what was done"]
    return _markdown(head, ([row.title, *cells(row), row.note] for row in rows))


def short(rows: Iterable[Row]) -> str:
    """The columns that matter most, as Markdown."""
    head = ["fault", "accepted", "lost", "published twice", "recovery p50", "max"]
    lines = []
    for row in rows:
        accepted, _, lost, _, twice, _, p50, longest = cells(row)
        seconds = [f"{text} ms" if text != _NONE else text for text in (p50, longest)]
        lost += f" of the last second's {row.allowed_loss:,}" if row.allowed_loss else ""
        lines.append([row.title, accepted, lost, twice, *seconds])
    return _markdown(head, lines)


def _markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    left = {"fault", "what was done"}
    marks = ["---" if name in left else "---:" for name in head]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, marks, *lines))
