"""Runs the fault table: injects every fault into real processes, counts, and says what held.

Usage: python -m faults [--list] [--only NAME ...] [--quick] [--no-write]
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence

from rich.console import Console

from faults import page, table
from faults.catalogue import FAMILIES
from faults.result import Row
from faults.runner import Runner
from faults.scenario import Scenario
from faults.stage import FULL, QUICK


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command; returns 1 when a promise was broken."""
    options = _options().parse_args(words)
    known = {scenario.name: scenario for family in FAMILIES for scenario in family.scenarios}
    if options.list:
        for scenario in known.values():
            print(f"{scenario.name:22} {scenario.title}")
        return 0
    unknown = sorted(set(options.only) - known.keys())
    if unknown:
        print(f"No such scenario: {', '.join(unknown)}. --list names them all.", file=sys.stderr)
        return 2
    # So that all processes and folders are cleared away then too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # Whoever runs this may have an installation of umbel of their own; it is none of our business.
    for name in [name for name in os.environ if name.startswith("UMBEL_")]:
        del os.environ[name]
    return _run(options)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m faults",
        description="Kills, freezes, cuts off and poisons real umbel processes, and counts what "
        "becomes of every accepted job. Everything runs here, on sockets of this machine, in "
        "temporary folders. Exit status 1: a promise was broken.",
    )
    parser.add_argument("--list", action="store_true", help="name all scenarios and stop")
    parser.add_argument(
        "--only", nargs="+", default=(), metavar="NAME", help="run these; writes no page"
    )
    parser.add_argument(
        "--quick", action="store_true", help="few jobs and one strike each; writes no page"
    )
    parser.add_argument(
        "--no-write", action="store_true", help="leave docs/reliability.md and README.md alone"
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    started = time.monotonic()

    def begins(scenario: Scenario) -> None:
        out.print(f"[dim]{time.monotonic() - started:5.0f} s[/dim]  {scenario.title} …")

    def ends(row: Row) -> None:
        kept = "[green]kept[/green]" if not row.problems() else "[bold red]BROKEN[/bold red]"
        out.print(
            f"         {kept}: {row.accepted:,} accepted, {row.visible:,} visible, {row.lost} "
            f"lost, {row.published_twice} published twice",
        )

    rows = Runner(QUICK if options.quick else FULL, begins, ends).run(FAMILIES, options.only)
    out.print()
    table.show(out, rows)
    broken = [row for row in rows if row.problems()]
    if not (broken or options.only or options.quick or options.no_write):
        page.write(rows, (time.monotonic() - started) / 60)
        out.print(f"\nWritten to {page.PAGE.name} and {page.README.name}.")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
