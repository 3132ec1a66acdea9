"""``umbel dead replay``: dead letters run again, or a recorded batch does, for the record."""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
import redis
import typer
from rich.text import Text

from umbel import Client, State
from umbel_batching.calls import Calls
from umbel_batching.lanes import split_id
from umbel_batching.scripts import Runner
from umbel_cli.dead.choose import Every, Ids, LaneName, Yes, choice, chosen
from umbel_cli.dead.rehearse import rehearse_batch
from umbel_cli.dead.tables import one_line
from umbel_cli.dead.words import why_not
from umbel_cli.failures import FAILED, TIMED_OUT
from umbel_cli.jobs import Patience
from umbel_cli.options import COMMON, Json, command
from umbel_cli.render import output, print_json, state_text
from umbel_cli.store import client_of
from umbel_config.embedded import find_store
from umbel_config.errors import NotReplayable
from umbel_config.settings import Settings

#: What a rehearsal loads a model with, as a worker does.
REPLAY = (*COMMON, "allowed_modules", "device", "torch_threads")
_QUESTION = "Run {count} {where} again?"
_BatchId = Annotated[
    str | None,
    typer.Option(
        "--batch",
        metavar="ID",
        help="Run this recorded batch again as it was composed, in a process of its own here; "
        "no job changes.",
    ),
]
_Timeout = Annotated[
    float,
    typer.Option(metavar="SECONDS", min=1, help="With --batch: the process is killed after this."),
]
_Wait = Annotated[bool, typer.Option("--wait", help="Wait until the jobs have ended again.")]


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one letter.

    Attributes:
        replayed: whether it waits in its lane again.
        why: why not.
        state: after ``--wait``.
        error: why it failed again.
    """

    id: str
    replayed: bool
    why: str | None = None
    state: str | None = None
    error: str | None = None


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    command(
        app,
        REPLAY,
        examples=(
            "umbel dead replay ID --wait",
            "umbel dead replay --lane digits@3 --yes",
            "umbel dead replay --batch BATCH --timeout 20",
        ),
    )(replay)


def replay(
    settings: Settings,
    ids: Ids = None,
    *,
    lane: LaneName = None,
    every: Every = False,
    batch: _BatchId = None,
    yes: Yes = False,
    wait: _Wait = False,
    patience: Patience = 60.0,
    timeout: _Timeout = 60.0,
    as_json: Json = False,
) -> None:
    """Put dead letters back into their lanes, each alone in its batch; ids and metadata stay."""
    if batch is not None:
        if ids or lane is not None or every or wait:
            raise typer.BadParameter("--batch goes alone: it puts no job back.")
        rehearse_batch(settings, batch, timeout, as_json=as_json)
        return
    what = choice(ids, lane, every=every)
    with client_of(settings) as client:
        wanted = chosen(client, settings.namespace, what, question=_QUESTION, yes=yes)
        told = [_put_back(client, settings, job_id) for job_id in wanted]
    if len(what.ids) == 1 and not told[0].replayed:
        raise NotReplayable(f"{told[0].id} was not replayed: {told[0].why}.")
    if wait:
        told = _ended(settings, told, patience)
    if as_json:
        print_json(told)
    else:
        _show(told, what.where)
    _exit(told, waited=wait)


def _put_back(client: redis.Redis, settings: Settings, job_id: str) -> Tried:
    outcome = Runner(client).run(Calls.of(settings).replay(*split_id(job_id)))
    if outcome.done:
        return Tried(id=job_id, replayed=True)
    why = why_not(client, settings.namespace, job_id, outcome.why)
    return Tried(id=job_id, replayed=False, why=why)


def _ended(settings: Settings, told: list[Tried], patience: float) -> list[Tried]:
    """The same with states, after all have ended or the patience has."""
    end = time.monotonic() + patience
    with Client(settings=find_store(settings)) as client:
        return [_watched(client, each, end) if each.replayed else each for each in told]


def _watched(client: Client, tried: Tried, end: float) -> Tried:
    job = client.job(tried.id)
    job.wait(max(0.0, end - time.monotonic()))
    info = job.info()
    return msgspec.structs.replace(tried, state=info.state, error=info.error)


def _show(told: list[Tried], where: str) -> None:
    out = output()
    for each in told:
        if each.replayed:
            line = Text.assemble(("replayed", "green"), f" {each.id}")
        else:
            line = Text.assemble(("not replayed", "yellow"), f" {each.id}: {each.why}")
        if each.state:
            line.append("  ").append_text(state_text(each.state))
        if each.error:
            line.append(f": {one_line(each.error)}")
        out.print(line, soft_wrap=True)
    if not told:
        out.print(f"No dead letter {where}: nothing to replay.", soft_wrap=True)


def _exit(told: list[Tried], *, waited: bool) -> None:
    ended = {State(each.state) for each in told if each.state}
    if any(not each.replayed for each in told) or (
        waited and any(state.terminal and state is not State.SUCCEEDED for state in ended)
    ):
        raise typer.Exit(FAILED)
    if any(not state.terminal for state in ended):
        raise typer.Exit(TIMED_OUT)
