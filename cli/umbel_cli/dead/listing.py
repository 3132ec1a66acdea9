"""``umbel dead list``: the newest dead letters."""

from __future__ import annotations

from typing import Annotated

import typer

from umbel_batching.dead_letters import dead_letters
from umbel_cli.dead.choose import LaneName, check_lane
from umbel_cli.dead.tables import letters_table
from umbel_cli.options import Json, command
from umbel_cli.render import output, print_json
from umbel_cli.store import client_of
from umbel_config.settings import Settings


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    examples = ("umbel dead list", "umbel dead list --lane digits@3 --limit 5 --json")
    command(app, name="list", examples=examples)(list_letters)


def list_letters(
    settings: Settings,
    *,
    lane: LaneName = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="Most letters to list.")] = 20,
    as_json: Json = False,
) -> None:
    """List the jobs that failed for good, newest first."""
    with client_of(settings) as client:
        if lane is not None:
            check_lane(client, settings.namespace, lane)
        letters = dead_letters(client, settings.namespace, lane=lane, limit=limit)
    if as_json:
        print_json(letters)
        return
    out = output()
    if not letters:
        where = f" in {lane}" if lane else ""
        out.print(f"No dead letters{where}: nothing waits for a second chance.")
        return
    # Ids are there to be copied: a narrow terminal wraps the lines, and cuts none.
    out.print(letters_table(letters, width=max(out.width, 120)), crop=False, soft_wrap=True)
    out.print("\nWhy one died:  umbel dead show ID", style="dim", soft_wrap=True)
