"""Compares adaptive batching with the best static setting, and turns the machine under it.

Usage: python -m adaptive [--only MODEL] [--no-write]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from faults.page import ROOT, between
from faults.stage import Scale, Stage
from faults.waiting import NeverHappened
from rich.console import Console
from rollout.company import Company, mean

from adaptive import page
from adaptive.contestants import CONTESTANTS
from adaptive.scene import Scene
from adaptive.search import Duel, duel
from adaptive.turn import Turn, turns
from umbel_config.embedded import EmbeddedRedis
from umbel_config.settings import Settings

PAGE = ROOT / "docs" / "models.md"
_SCALE = Scale(jobs=0, per_s=0, strikes=0, storm_s=0, pause_ms=0)
_AS_DELIVERED = {
    name: Settings.model_fields[name].default
    for name in ("lease_ms", "drain_budget_ms", "torch_threads")
}
#: Adaptive must reach this part of the best static setting, and be right again in this time, s.
_PART, _RIGHT_S = 0.95, 10.0


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command; returns 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m adaptive", description=__doc__)
    parser.add_argument("--only", help="one model; writes no page")
    parser.add_argument("--no-write", action="store_true", help="leave docs/models.md alone")
    options = parser.parse_args(words)
    for name in [name for name in os.environ if name.startswith("UMBEL_")]:
        del os.environ[name]
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    try:
        with Company() as company:
            duels, seen = _play(options.only, out)
            spans = company.spans()
    except NeverHappened as error:
        out.print(f"[bold red]BROKEN[/bold red]: {error}")
        return 1
    others = mean(spans, spans[0].begin, spans[-1].end) if spans else None
    text = page.text(duels, seen, others)
    out.print(f"\n{text}\n", markup=False)
    problems = [f"{each.name}: {each.part:.2f} of static" for each in duels if each.part < _PART]
    problems += [
        f"{each.what}: right after {each.right_s} s"
        for each in seen
        if each.right_s is None or each.right_s > _RIGHT_S
    ]
    for problem in problems:
        out.print(f"[bold red]BROKEN[/bold red]: {problem}")
    if not problems and not options.only and not options.no_write:
        between(PAGE, text, page.BEGIN, page.END)
        out.print(f"Written to {PAGE.name}.")
    return 1 if problems else 0


def _play(only: str | None, out: Console) -> tuple[list[Duel], list[Turn]]:
    """Runs all models, each on a worker of its own."""
    duels, seen = list[Duel](), list[Turn]()

    def say(line: str) -> None:
        out.print(f"[dim]{line}[/dim]")

    for contestant in CONTESTANTS:
        if only not in {None, contestant.name}:
            continue
        with (
            tempfile.TemporaryDirectory(prefix="umbel-adaptive-") as name,
            EmbeddedRedis.start(Path(name)) as server,
            Stage(server.url, _SCALE, **_AS_DELIVERED) as stage,
        ):
            scene = Scene(stage, contestant)
            stage.ensure_workers(1)
            duels.append(duel(scene, say))
            if contestant.name == "mid":
                seen += turns(scene, say)
    return duels, seen


if __name__ == "__main__":
    sys.exit(main())
