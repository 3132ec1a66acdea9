"""Measures callbacks, and writes the figures into docs/callbacks.md.

Usage: python -m deliveries [--quick] [--no-write]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from faults.page import ROOT, between, machine
from rich.console import Console

from deliveries import bad, killed, rate
from deliveries.scene import empty
from umbel_config.embedded import EmbeddedRedis

PAGE = ROOT / "docs" / "callbacks.md"
BEGIN, END = "<!-- deliveries:begin -->", "<!-- deliveries:end -->"
#: Inference beside bad receivers must keep this part of its rate.
_KEPT = 0.9


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command; returns 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m deliveries", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few jobs, one round; writes no page")
    parser.add_argument("--no-write", action="store_true", help="leave docs/callbacks.md alone")
    options = parser.parse_args(words)
    for name in [name for name in os.environ if name.startswith("UMBEL_")]:
        del os.environ[name]
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    with (
        tempfile.TemporaryDirectory(prefix="umbel-deliveries-") as folder,
        EmbeddedRedis.start(Path(folder)) as server,
    ):
        parts, problems = _measure(server.url, out, quick=options.quick)
    for problem in problems:
        out.print(f"[bold red]BROKEN[/bold red]: {problem}")
    if not (options.quick or options.no_write or problems):
        between(PAGE, "\n\n".join([*parts, f"Measured with {machine()}."]), BEGIN, END)
        out.print(f"\nWritten to {PAGE.name}.")
    return 1 if problems else 0


def _measure(url: str, out: Console, *, quick: bool) -> tuple[list[str], list[str]]:
    parts, problems = [], []
    for text, found in (
        _bad(url, out, quick=quick),
        _killed(url, out, quick=quick),
        _rate(url, out, quick=quick),
    ):
        parts.append(text)
        problems += found
        out.print(f"\n{text}\n", markup=False)
    return parts, problems


def _bad(url: str, out: Console, *, quick: bool) -> tuple[str, list[str]]:
    count, window_s, rounds = (1000, 2.0, 1) if quick else (10_000, 8.0, 3)
    runs: dict[tuple[str, ...], list[bad.Round]] = {bad.GOOD: [], bad.BAD: []}
    for turn in range(rounds):
        for kinds in (bad.GOOD, bad.BAD):
            out.print(f"[dim]round {turn + 1}: {', '.join(kinds)} …[/dim]")
            runs[kinds].append(bad.play(url, kinds, count, window_s))
            empty(url)
    good, worse = runs[bad.GOOD], runs[bad.BAD]
    ratios = [b.inference_per_s / g.inference_per_s for g, b in zip(good, worse, strict=True)]
    text = _bad_table(good, worse, ratios)
    return text, list(_bad_problems([*good, *worse], statistics.median(ratios)))


def _bad_problems(rounds: list[bad.Round], ratio: float) -> list[str]:
    problems = [
        f"{each.missing} callbacks missing, {each.invalid} wrong signatures, "
        f"{each.wrong_ids} with several ids, beside {', '.join(each.kinds)}"
        for each in rounds
        if each.missing or each.invalid or each.wrong_ids
    ]
    if ratio < _KEPT:
        problems.append(f"inference beside bad receivers ran at {ratio:.2f} of its rate")
    return problems


def _bad_table(good: list[bad.Round], worse: list[bad.Round], ratios: list[float]) -> str:
    lines = [
        "| | six good receivers | five bad ones and a good one |",
        "| --- | ---: | ---: |",
        _line("jobs with callbacks", good, worse, lambda each: f"{sum(each.jobs.values()):,}"),
        _line("delivered", good, worse, lambda each: f"{sum(each.taken.values()):,}"),
        _line("missing of those that could be", good, worse, lambda each: f"{each.missing}"),
        _line("taken twice", good, worse, lambda each: f"{each.twice}"),
        _line("wrong signatures", good, worse, lambda each: f"{each.invalid}"),
        _line("jobs computed per second", good, worse, lambda each: f"{each.inference_per_s:,.0f}"),
        _line("delay at a good receiver, p50", good, worse, lambda each: _quantile(each, 0.5)),
        _line("delay at a good receiver, p99", good, worse, lambda each: _quantile(each, 0.99)),
    ]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    rate_text = (
        f"Inference beside bad receivers ÷ beside good ones: {statistics.median(ratios):.2f}"
    )
    return "\n".join(lines) + f"\n\n{rate_text} ({spread})."


def _line(name: str, good: list[bad.Round], worse: list[bad.Round], tell: object) -> str:
    assert callable(tell)
    middle = len(good) // 2
    by_rate = [sorted(each, key=lambda one: one.inference_per_s)[middle] for each in (good, worse)]
    return f"| {name} | {tell(by_rate[0])} | {tell(by_rate[1])} |"


def _quantile(each: bad.Round, part: float) -> str:
    return f"{each.delays_ms[int(part * (len(each.delays_ms) - 1))]:,.0f} ms"


def _killed(url: str, out: Console, *, quick: bool) -> tuple[str, list[str]]:
    lines = [
        "| | jobs | kills | lost | sent twice | under another `webhook-id` |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    problems = []
    for shared in (False, True):
        out.print(f"[dim]SIGKILL of sender and worker{', shared POSTs' if shared else ''} …[/dim]")
        count, kills = (400, 1) if quick else (6000, 3)
        seen = killed.play(url, count=count, kills=kills, shared=shared)
        empty(url)
        name = "results share POSTs" if shared else "each result its own POST"
        lines.append(
            f"| {name} | {seen.jobs:,} | {seen.kills} | {seen.lost} | {seen.twice} | "
            f"{seen.wrong_ids} |"
        )
        if seen.lost or seen.wrong_ids or seen.invalid or seen.undelivered:
            problems.append(f"killed senders: {seen}")
    return "\n".join(lines), problems


def _rate(url: str, out: Console, *, quick: bool) -> tuple[str, list[str]]:
    lines = [
        "| receivers | senders | POSTs | deliveries per second |",
        "| ---: | ---: | --- | ---: |",
    ]
    cases = [(1, 1, False, False), (5, 1, False, False), (50, 1, False, False)]
    cases += [(5, 2, False, False), (50, 1, False, True), (5, 1, True, False)]
    problems = []
    for receivers, senders, shared, slow in cases[:1] if quick else cases:
        out.print(f"[dim]rate: {receivers} receivers, {senders} senders …[/dim]")
        count = 500 if quick else 50_000 if shared else 10_000
        seen = rate.measure(url, receivers, count=count, senders=senders, shared=shared, slow=slow)
        empty(url)
        kind = "up to 100 results each" if shared else "one result each"
        kind += ", answered after 10 ms" if slow else ""
        lines.append(f"| {receivers} | {senders} | {kind} | {seen.per_s:,.0f} |")
        if seen.wrong:
            problems.append(f"{seen.wrong} callbacks did not arrive exactly once: {seen}")
    return "\n".join(lines), problems


if __name__ == "__main__":
    sys.exit(main())
