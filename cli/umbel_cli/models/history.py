"""``umbel models history``: who changed what about a model, when and why."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from umbel_cli.dead.tables import moment
from umbel_cli.models.tables import change_lines
from umbel_cli.models.words import Model
from umbel_cli.options import Json, command
from umbel_cli.render import output, print_json
from umbel_cli.store import opened
from umbel_config.settings import Settings
from umbel_registry import TrafficControl
from umbel_registry.audit import Change
from umbel_registry.traffic_control import MOST_KEPT


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    examples = ("umbel models history digits", "umbel models history digits --limit 3 --json")
    command(app, examples=examples)(history)


def history(
    settings: Settings,
    model: Model,
    *,
    limit: Annotated[
        int,
        typer.Option("--limit", metavar="N", min=1, max=MOST_KEPT, help="Most changes to show."),
    ] = 50,
    as_json: Json = False,
) -> None:
    """Show what was changed about a model's routes, newest first: when, by whom, what and why."""
    with opened(settings) as client:
        control = TrafficControl(client, settings.namespace)
        control.read(model)  # says that there is no such model, where it has no history either
        changes = control.history(model, limit)
    if as_json:
        print_json([change.model_dump(mode="json") for change in changes])
    elif changes:
        output().print(_table(changes))
    else:
        output().print(f"Nothing about {model} was changed yet.")


def _table(changes: list[Change]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("when", "who", "what"):
        table.add_column(name, no_wrap=name != "who", overflow="fold")
    table.add_column("from -> to", overflow="fold")
    now_ms = int(time.time() * 1000)
    for change in changes:
        told = change_lines(change)
        if change.why:
            told.append(Text(f"because: {change.why}", style="dim"))
        when = moment(change.at, now_ms)
        table.add_row(when, Text(change.who), change.what, Text("\n").join(told))
    return table
