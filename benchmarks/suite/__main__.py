"""Measures umbel beside its peers, and writes docs/benchmarks.md with its picture and figures.

Usage: python -m suite [--quick] [--out FOLDER] [--render]

The quick form prints only, unless it is told where to write.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from suite import page
from suite.pace import FULL, QUICK
from suite.results import Results
from suite.run import run


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command; returns 1 when umbel could not be measured or answered wrongly."""
    parser = argparse.ArgumentParser(prog="python -m suite", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three minutes; prints only")
    parser.add_argument("--out", type=Path, help="folder for page, picture and figures")
    parser.add_argument("--render", action="store_true", help="the page again, of known figures")
    options = parser.parse_args(words)
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 128)
    if options.render:
        folder = options.out or page.DOCS
        _write(Results.read(folder / page.FIGURES), folder, out)
        return 0
    for name in [name for name in os.environ if name.startswith("UMBEL_")]:
        del os.environ[name]
    began = time.monotonic()

    def say(text: str) -> None:
        out.print(f"[{time.monotonic() - began:4.0f} s] {text}", markup=False)

    with tempfile.TemporaryDirectory(prefix="umbel-bench-") as folder:
        results, problem = run(Path(folder), QUICK if options.quick else FULL, say)
    results.quick, results.minutes = options.quick, (time.monotonic() - began) / 60
    out.print(f"\n{page.terminal(results)}", markup=False)
    if problem:
        out.print(f"\n[bold red]BROKEN[/bold red]: {problem}")
        return 1
    target = options.out or (None if options.quick else page.DOCS)
    if target is not None:
        _write(results, target, out)
    return 0


def _write(results: Results, folder: Path, out: Console) -> None:
    for name in page.write(results, folder.resolve()):
        out.print(f"Written: {name}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
