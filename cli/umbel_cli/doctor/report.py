"""How findings are shown: one line a check, with advice beneath those that are not well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any, Final

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from umbel_cli.doctor.findings import Finding, Level, closing, worst

_MARKS: Final = {
    Level.OK: ("✓", "green"),
    Level.WARNING: ("!", "bold yellow"),
    Level.PROBLEM: ("✗", "bold red"),
    Level.SKIPPED: ("-", "dim"),
}
_TITLES: Final = {
    "redis": "Redis",
    "settings": "Settings",
    "workers": "Workers",
    "lanes": "Lanes",
    "callbacks": "Callbacks",
    "models": "Models",
}
_NAME_WIDTH: Final = 12


def as_text(findings: Sequence[Finding]) -> Group:
    """All findings, for people.

    Args:
        findings: group by group.
    """
    parts: list[Any] = []
    for group, members in groupby(findings, lambda finding: finding.group):
        parts += (Text(_TITLES[group], style="bold"), _table(members), "")
    style = _MARKS[worst(findings)][1]
    return Group(*parts, Text(closing(findings), style=style))


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """All findings, for programs: ``level`` of the worst, and ``findings``.

    Args:
        findings: in any order.
    """
    return {"level": worst(findings), "findings": [asdict(finding) for finding in findings]}


def _table(findings: Any) -> Padding:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=1)
    table.add_column(width=_NAME_WIDTH, no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        mark, style = _MARKS[finding.level]
        table.add_row(Text(mark, style=style), finding.name, _words(finding))
    return Padding(table, (0, 0, 0, 2))


def _words(finding: Finding) -> Group | Text:
    summary = Text(finding.summary, style="dim" if finding.level is Level.SKIPPED else "")
    if not finding.advice or finding.level is Level.OK:
        return summary
    return Group(summary, Text(f"→ {finding.advice}", style="cyan"))
