"""``umbel callbacks receivers``: how those fare that callbacks go to."""

from __future__ import annotations

import typer

from umbel_batching.receivers import receiver_statuses
from umbel_cli.callbacks.moments import now_ms
from umbel_cli.callbacks.tables import receivers_table
from umbel_cli.options import Json, command
from umbel_cli.render import output, print_json
from umbel_cli.store import client_of
from umbel_config.settings import Settings

#: Columns that the widest table takes at most: the name of a host has 253 characters.
_WIDEST = 500


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    examples = ("umbel callbacks receivers", "umbel callbacks receivers --json")
    command(app, examples=examples)(receivers)


def receivers(settings: Settings, *, as_json: Json = False) -> None:
    """Show every receiver: what waits for it, how it answered, and when it is tried next.

    Counts are of POSTs; pending includes those under way. limit: so many at the same time.
    """
    with client_of(settings) as client:
        statuses = receiver_statuses(client, settings.namespace)
    if as_json:
        print_json(statuses)
        return
    out = output()
    if not statuses:
        out.print("No receiver is known: no callback waits, and none was sent lately.")
        return
    table = receivers_table(statuses, now_ms())
    # A narrow terminal wraps the lines; names and counts that are cut would be worth nothing.
    table.width = out.measure(table, options=out.options.update_width(_WIDEST)).maximum
    out.print(table, crop=False, soft_wrap=True)
