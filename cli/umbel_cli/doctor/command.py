"""``umbel doctor``: everything that can be wrong, looked at in seconds."""

from __future__ import annotations

from typing import Annotated

import typer

from umbel_cli.doctor.examine import examine
from umbel_cli.doctor.findings import Level, worst
from umbel_cli.doctor.report import as_json as plain
from umbel_cli.doctor.report import as_text
from umbel_cli.failures import FAILED
from umbel_cli.options import Json, command
from umbel_cli.render import errors, output, print_json
from umbel_config.settings import Settings


def add_to(app: typer.Typer) -> None:
    """Adds the command of this package."""
    command(app, examples=("umbel doctor", "umbel doctor --deep", "umbel doctor --json"))(doctor)


def doctor(
    settings: Settings,
    *,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read all artifacts and compare their SHA-256, too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Look at Redis, settings, workers, lanes, callbacks and models, and say what is amiss.

    It changes nothing. Exit code 0: all is well, or there are warnings only; 1: there is a problem.
    """
    with errors().status("looking"):
        findings = examine(settings, deep=deep)
    if as_json:
        print_json(plain(findings))
    else:
        output().print(as_text(findings))
    if worst(findings) is Level.PROBLEM:
        raise typer.Exit(FAILED)
