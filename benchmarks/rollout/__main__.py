"""Rolls versions out under load, and writes figures and a picture into docs/rollouts.md.

Usage: python -m rollout [--quick] [--no-write] [--per-s 150]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from faults.page import ROOT, between
from faults.waiting import NeverHappened
from rich.console import Console

from rollout import page, plot
from rollout.run import play
from rollout.story import Event, Pace
from rollout.verdict import Verdict

PAGE = ROOT / "docs" / "rollouts.md"
_QUICK = Pace(steady=5.0, between=2.5, rounds=1)


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command; returns 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m rollout", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round; writes no page")
    parser.add_argument("--no-write", action="store_true", help="leave docs/rollouts.md alone")
    parser.add_argument("--per-s", type=float, default=150.0, help="jobs per second")
    options = parser.parse_args(words)
    for name in [name for name in os.environ if name.startswith("UMBEL_")]:
        del os.environ[name]
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)

    def say(event: Event) -> None:
        took = f" in {event.end - event.begin:.2f} s" if event.end > event.begin else ""
        out.print(f"[dim]{event.what} {event.version}{took}[/dim]")

    out.print(f"[dim]starting a worker and {options.per_s:g} jobs each second …[/dim]")
    try:
        verdict = Verdict.of(play(options.per_s, _QUICK if options.quick else Pace(), say))
    except NeverHappened as error:
        out.print(f"[bold red]BROKEN[/bold red]: {error}")
        return 1
    return _tell(verdict, out, write=not (options.quick or options.no_write))


def _tell(verdict: Verdict, out: Console, *, write: bool) -> int:
    """Prints the figures, and writes the page if they are as promised."""
    out.print()
    for event, latency in verdict.around:
        out.print(page.line(event, latency, verdict), markup=False)
    out.print(f"\n{page.text(verdict)}\n", markup=False)
    problems = list(verdict.problems())
    for problem in problems:
        out.print(f"[bold red]BROKEN[/bold red]: {problem}")
    if not problems:
        out.print("[bold green]kept[/bold green]: no job failed, and no event was felt")
    if write and not problems:
        plot.draw(verdict, plot.PICTURE)
        between(PAGE, page.text(verdict), page.BEGIN, page.END)
        out.print(f"Written to {PAGE.name} and {plot.PICTURE.name}.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
