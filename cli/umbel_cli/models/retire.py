"""``umbel models retire``: a version takes no jobs any more."""

from __future__ import annotations

from typing import Annotated

import redis
import typer

from umbel_batching.census import lane_statuses
from umbel_batching.lanes import Lane
from umbel_cli.models.keeping import after_change
from umbel_cli.models.tables import print_change
from umbel_cli.models.words import DryRun, Model, Version
from umbel_cli.options import Json, command
from umbel_cli.store import opened
from umbel_config.settings import Settings
from umbel_registry import TrafficControl, edits
from umbel_registry.edits import Standing
from umbel_registry.traffic import Queued, Traffic

HowQueued = Annotated[
    Queued | None,
    typer.Option(
        "--queued",
        help="What becomes of the jobs that wait for it. finish: they still run on it, and "
        "workers unload it afterwards. reroute: they run on another version. fail: they fail "
        "at once. [dim](default: finish)[/dim]",
    ),
]
Other = Annotated[
    str | None,
    typer.Option(
        "--to",
        metavar="VERSION",
        help="With --queued reroute: the version that runs them; it must take the same "
        "inputs. [dim](default: the largest of the route)[/dim]",
    ),
]
_ENDS: dict[Queued, str] = {
    "finish": "they still run on it, then workers unload it",
    "reroute": "they run on {to} instead",
    "fail": "they fail",
}


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    examples = (
        "umbel models retire digits 2",
        "umbel models retire digits 2 --queued reroute --to 3",
        "umbel models retire digits 2 --undo",
    )
    command(app, examples=examples)(retire)


def retire(
    settings: Settings,
    model: Model,
    version: Version,
    *,
    queued: HowQueued = None,
    to: Other = None,
    undo: Annotated[bool, typer.Option("--undo", help="Let it take jobs again.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Withdraw a version: new jobs for it are refused, and workers unload it.

    It cannot be while a route, an alias or a canary points to it.
    Its results stay, and so does its artifact: --undo brings it back.
    """
    if undo and (queued or to):
        raise typer.BadParameter("--undo goes with neither --queued nor --to.")
    if to and queued != "reroute":
        raise typer.BadParameter("--to goes with --queued reroute.")
    with opened(settings) as client:
        control = TrafficControl(client, settings.namespace)
        if undo:
            change = control.bring_back(model, version, dry_run=dry_run)
            after_change(settings, client, model, dry_run=dry_run)
            print_change(change, dry_run=dry_run, as_json=as_json)
            return
        policy = queued or "finish"
        standing = control.read(model)
        planned = edits.with_retired(standing, version, queued=policy, by=control.who, to=to)
        change = control.retire(model, version, queued=policy, to=to, dry_run=dry_run)
        after_change(settings, client, model, dry_run=dry_run)
        waiting = _waiting(client, settings.namespace, model, standing.version(version))
    print_change(
        change,
        dry_run=dry_run,
        as_json=as_json,
        notes=_notes(standing, planned, standing.version(version), waiting),
        facts={"waiting": waiting},
    )


def _waiting(client: redis.Redis, namespace: str, model: str, version: str) -> int:
    """How many jobs wait for a version now."""
    lane = Lane(model=model, version=version).name
    return sum(each.waiting for each in lane_statuses(client, namespace) if each.lane == lane)


def _notes(standing: Standing, planned: Traffic, version: str, waiting: int) -> list[str]:
    """What becomes of the jobs that wait, and of those to come."""
    retirement = planned.retired[version]
    end = _ENDS[retirement.queued].format(to=retirement.to)
    count = "1 job waits" if waiting == 1 else f"{waiting:,} jobs wait"
    notes = [f"{count} for it now: {end}." if waiting else "No job waits for it now."]
    before, after = standing.route, planned.route_among(standing.manifests)
    if after is None:
        notes.append(f"No version of {standing.model} is left that answers.")
    elif before is None or before.weights != after.weights:
        notes.append(f"Jobs that ask for no version go to {after.versions[0]}.")
    return notes
