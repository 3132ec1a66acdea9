"""``umbel demo``: trains, pushes, starts the stack, submits, measures, and cleans up."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from umbel_cli.demo.show import Demo
from umbel_cli.options import EVERY, Json, command
from umbel_cli.render import errors, output, print_json
from umbel_cli.up import signals
from umbel_config.settings import Settings, load_settings

#: Share of held-out digits that must be read right.
ENOUGH = 0.95


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    command(app, EVERY, examples=("umbel demo", "umbel demo --rounds 50 --producers 2"))(demo)


def demo(
    settings: Settings,
    *,
    rounds: Annotated[
        int, typer.Option(min=1, max=1000, help="How often each held-out digit is sent.")
    ] = 20,
    producers: Annotated[
        int, typer.Option(min=1, max=16, help="Processes that submit jobs at once.")
    ] = 4,
    as_json: Json = False,
) -> None:
    """Train a model, serve it, send it real digits from several processes, and show what happens.

    Takes about a minute, and leaves nothing running.
    """
    out = errors() if as_json else output()
    with signals() as (stop, hurry):
        show = Demo(settings, out=out, stop=stop, hurry=hurry)
        outcome = show.run(rounds=rounds, producers=producers)
    if as_json:
        print_json(dataclasses.asdict(outcome))
    else:
        _farewell(out, outcome.job_id, settings)
    if outcome.accuracy < ENOUGH:
        errors().print(f"[bold red]error:[/bold red] fewer than {ENOUGH:.0%} were read right")
        raise typer.Exit(1)


def _farewell(out: Console, job_id: str, settings: Settings) -> None:
    ttl = f"{settings.result_ttl_s / 60:.0f} minutes"
    out.rule("[bold]now you", align="left")
    same = "" if settings == load_settings() else " (with the flags that you gave to the demo)"
    out.print(f"Nothing is left running. Start it for yourself, in this terminal{same}:\n")
    umbel = program()
    out.print(f"  {umbel} up\n", style="bold")
    out.print("and in another one:\n")
    out.print(f"  {umbel} submit digits --example", style="bold")
    out.print(f"  {umbel} job {job_id}", style="bold", soft_wrap=True, end="")
    out.print(f"   [dim]# one of the jobs above; kept for {ttl}[/dim]")
    out.print(f"  {umbel} lanes", style="bold")


def program() -> str:
    """How this installation's command is called from here: it may not be on the PATH."""
    if shutil.which("umbel"):
        return "umbel"
    return os.path.relpath(Path(sys.executable).with_name("umbel"))
