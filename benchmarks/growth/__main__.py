"""Measures how throughput and latency grow, and writes docs/growth.md, .json and a picture.

Usage: python -m growth [--quick] [--only NAME ...] [--page] [--no-write]
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from faults.waiting import NeverHappened
from rich.console import Console
from rollout.company import Company, mean

from growth import batches, crowds, depths, lanes, page, payloads, plot, store
from growth.bench import Pace
from growth.values import Dimension

MEASURES: dict[str, Callable[[Pace], Dimension]] = {
    "batch": batches.measure,
    "depth": depths.measure,
    "producers": crowds.producers,
    "workers": crowds.workers,
    "lanes": lanes.measure,
    "payload": payloads.measure,
}
_QUICK = Pace(rounds=1, bulk_s=0.5, paced_s=0.4, quick=True)


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command; returns 1 when an answer was wrong or never came."""
    options = _options().parse_args(words)
    # So that all processes and folders are cleared away then too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    for name in [name for name in os.environ if name.startswith("UMBEL_")]:
        del os.environ[name]
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    try:
        report = store.load() if options.page else _measure(options, out)
    except (NeverHappened, AssertionError) as error:
        out.print(f"[bold red]BROKEN[/bold red]: {error}")
        return 1
    if not (options.quick or options.no_write):
        report = store.joined(store.load(), report) if options.only else report
        store.save(report)
        plot.draw(report.dimensions, plot.PICTURE)
        page.write(report)
        out.print(f"Written: {page.PAGE.name}, {store.FILE.name} and {plot.PICTURE.name}.")
    return 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m growth", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few points, once; writes no page")
    parser.add_argument(
        "--only", nargs="+", default=(), choices=MEASURES, help="these; all others stay as they are"
    )
    parser.add_argument(
        "--page", action="store_true", help="measure nothing; page and picture from growth.json"
    )
    parser.add_argument("--no-write", action="store_true", help="write nothing into docs/")
    return parser


def _measure(options: argparse.Namespace, out: Console) -> store.Report:
    pace, found = _QUICK if options.quick else Pace(), []
    begin = time.monotonic()
    with Company() as company:
        for key, measure in MEASURES.items():
            if options.only and key not in options.only:
                continue
            started = time.monotonic()
            out.print(f"[dim]{started - begin:4.0f} s[/dim]  {key} …")
            dimension = measure(pace)
            end = time.monotonic()
            others = mean(company.spans(), started, end)
            dimension = replace(dimension, others=others, seconds=end - started)
            out.print(page.table(dimension), markup=False, soft_wrap=True)
            found.append(dimension)
    checked = sum(dimension.checked for dimension in found)
    out.print(f"{checked:,} answers, all of them right, in {time.monotonic() - begin:.0f} s.")
    return store.Report.of(found)


if __name__ == "__main__":
    sys.exit(main())
