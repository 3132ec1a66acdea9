"""``umbel dead drop``: dead letters that nobody wants any more."""

from __future__ import annotations

import msgspec
import typer

from umbel_batching.calls import Calls
from umbel_batching.lanes import split_id
from umbel_batching.scripts import Runner
from umbel_cli.dead.choose import Every, Ids, LaneName, Yes, choice, chosen
from umbel_cli.failures import FAILED
from umbel_cli.options import CANCEL, Json, command
from umbel_cli.render import output, print_json
from umbel_cli.store import client_of
from umbel_config.settings import Settings

_QUESTION = "Drop {count} {where}, with their inputs?"


class Dropped(msgspec.Struct, frozen=True):
    """Whether a dead letter was there to be dropped."""

    id: str
    dropped: bool


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    examples = ("umbel dead drop ID", "umbel dead drop --lane digits@3 --yes")
    command(app, CANCEL, examples=examples)(drop)


def drop(
    settings: Settings,
    ids: Ids = None,
    *,
    lane: LaneName = None,
    every: Every = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Drop dead letters and their inputs; the jobs stay readable as any other failed job."""
    what = choice(ids, lane, every=every)
    calls = Calls.of(settings)
    with client_of(settings) as client:
        wanted = chosen(client, settings.namespace, what, question=_QUESTION, yes=yes)
        runner = Runner(client)
        told = [Dropped(job_id, runner.run(calls.drop(*split_id(job_id)))) for job_id in wanted]
    if as_json:
        print_json(told)
    else:
        _show(told, what.where)
    if not all(each.dropped for each in told):
        raise typer.Exit(FAILED)


def _show(told: list[Dropped], where: str) -> None:
    out = output()
    for each in told:
        done = "[green]dropped[/green]" if each.dropped else "[yellow]no dead letter[/yellow]"
        out.print(f"{done} {each.id}", soft_wrap=True)
    if not told:
        out.print(f"No dead letter {where}: nothing to drop.", soft_wrap=True)
