"""``umbel lanes``: what waits, what runs, and who serves it."""

from __future__ import annotations

import typer

from umbel_batching.census import LaneStatus, lane_statuses
from umbel_cli.options import Json, command
from umbel_cli.render import errors, lanes_table, output, print_json
from umbel_cli.store import client_of
from umbel_cli.tuning_tables import tuning_table
from umbel_config.settings import Settings


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    command(app, examples=("umbel lanes", "umbel lanes --json"))(lanes)


def lanes(settings: Settings, *, as_json: Json = False) -> None:
    """Show every lane: jobs waiting and running, totals, and the workers that serve it.

    Of adaptive lanes also what batch size and wait workers chose, and what that rests on.
    """
    with client_of(settings) as client:
        found = lane_statuses(client, settings.namespace)
    if as_json:
        print_json(found)
    elif found:
        output().print(lanes_table(found))
        if any(lane.mode == "adaptive" for lane in found):
            output().print()
            output().print(tuning_table(found))
    else:
        output().print("No lane yet: the first job of a model version opens one.")
    for lane in found:
        if unserved(lane):
            warn_unserved(lane)


def unserved(lane: LaneStatus) -> bool:
    """Whether jobs wait in a lane that no worker serves."""
    return lane.waiting > 0 and lane.slots == 0


def warn_unserved(lane: LaneStatus) -> None:
    """Says on standard error that nobody serves a lane."""
    count = "1 job waits" if lane.waiting == 1 else f"{lane.waiting:,} jobs wait"
    errors().print(
        f"[bold yellow]warning:[/bold yellow] {count} in {lane.lane}, and no worker serves queue "
        f"{lane.queue}. Start one: umbel up, or umbel worker --queues {lane.queue}",
        soft_wrap=True,
    )
