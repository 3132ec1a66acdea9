"""``umbel callbacks list``: callbacks that were given up."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from umbel_batching.receivers import Undelivered, receiver_statuses
from umbel_cli.callbacks.choose import Host, Part, Since, Until, found, part_of
from umbel_cli.callbacks.moments import now_ms
from umbel_cli.callbacks.tables import undelivered_table
from umbel_cli.options import Json, command
from umbel_cli.render import output, print_json
from umbel_cli.store import client_of
from umbel_config.settings import Settings


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    examples = (
        "umbel callbacks list",
        "umbel callbacks list --host hooks.example.com --since 2h",
        "umbel callbacks list --since 2026-03-01T12:00 --limit 5 --json",
    )
    command(app, name="list", examples=examples)(list_undelivered)


def list_undelivered(
    settings: Settings,
    *,
    host: Host = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="Most callbacks to list.")] = 20,
    as_json: Json = False,
) -> None:
    """List the callbacks that were given up, newest first."""
    part = part_of(host, since, until)
    with client_of(settings) as client:
        letters = found(client, settings.namespace, part, limit=limit)
        statuses = [] if letters else receiver_statuses(client, settings.namespace)
    if as_json:
        print_json([_facts(letter) for letter in letters])
        return
    out = output()
    if not letters:
        pending = sum(each.pending for each in statuses if part.covers(each))
        out.print(_nothing(part, pending), soft_wrap=True, markup=False)
        return
    # Ids are there to be copied: a narrow terminal wraps the lines, and cuts none.
    table = undelivered_table(letters, now_ms(), width=max(out.width, 120))
    out.print(table, crop=False, soft_wrap=True)
    steps = "\nAll attempts of one:  umbel callbacks show ID\n"
    steps += "Send them again:      umbel callbacks replay ID ..., or --host HOST, or --all"
    out.print(steps, style="dim", soft_wrap=True)


def _nothing(part: Part, pending: int) -> str:
    are = "none is" if pending == 0 else "1 is" if pending == 1 else f"{pending:,} are"
    return f"No undelivered callbacks{part.words}; {are} pending."


def _facts(letter: Undelivered) -> dict[str, Any]:
    """The fields of an undelivered callback but its URL, which may hold a token."""
    facts = msgspec.structs.asdict(letter)
    del facts["url"]
    tried = [attempt for attempt in letter.log if attempt.note != "replayed"]
    facts["last_status"] = tried[-1].status or None if tried else None
    return facts
