"""``umbel models rollback``: back to the route before."""

from __future__ import annotations

from typing import Annotated

import typer

from umbel_cli.models.keeping import after_change
from umbel_cli.models.tables import print_change
from umbel_cli.models.words import DryRun, Model
from umbel_cli.options import Json, command
from umbel_cli.store import opened
from umbel_config.settings import Settings
from umbel_registry import TrafficControl


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    examples = (
        "umbel models rollback digits",
        'umbel models rollback digits --why "wrong labels since noon"',
        "umbel models rollback digits --dry-run",
    )
    command(app, examples=examples)(rollback)


def rollback(
    settings: Settings,
    model: Model,
    *,
    why: Annotated[
        str, typer.Option("--why", metavar="TEXT", help="The reason, for the history.")
    ] = "",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Return to the route before the one in force, at once; a canary under way ends with that.

    Again goes back one route more. Aliases stay: move those with umbel models alias.
    """
    with opened(settings) as client:
        control = TrafficControl(client, settings.namespace)
        change = control.roll_back(model, why=why, dry_run=dry_run)
        after_change(settings, client, model, dry_run=dry_run)
    print_change(change, dry_run=dry_run, as_json=as_json)
