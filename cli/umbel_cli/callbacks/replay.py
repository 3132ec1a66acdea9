"""``umbel callbacks replay``: callbacks are sent once more."""

from __future__ import annotations

import msgspec
import redis
import typer
from rich.text import Text

from umbel_batching.deliveries import DeliveryState
from umbel_batching.lanes import split_id
from umbel_batching.outbox import OutboxCalls
from umbel_batching.receivers import read_callback
from umbel_batching.scripts import Runner
from umbel_cli.callbacks.choose import (
    Every,
    Host,
    Ids,
    Part,
    Since,
    Until,
    choice,
    found,
    part_of,
)
from umbel_cli.dead.choose import Yes
from umbel_cli.failures import FAILED
from umbel_cli.options import CANCEL, Json, command
from umbel_cli.render import output, print_json
from umbel_cli.store import client_of
from umbel_config.settings import Settings

_WHY = {
    "unknown": "no job of that id is known, or what was kept of it has expired",
    "not ended": "its job has not ended; the callback goes out when it has",
    "none": "its job has no callback",
}


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one callback.

    Attributes:
        id: the job.
        waits: whether it waits to be sent now.
        was: its state before: ``delivered``, ``dead``, or ``pending`` if it waited already.
        why: why it does not wait.
    """

    id: str
    waits: bool
    was: str | None = None
    why: str | None = None


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    examples = (
        "umbel callbacks replay ID",
        "umbel callbacks replay --host hooks.example.com --since 2h --yes",
        "umbel callbacks replay --all --json",
    )
    command(app, CANCEL, examples=examples)(replay)


def replay(
    settings: Settings,
    ids: Ids = None,
    *,
    host: Host = None,
    since: Since = None,
    until: Until = None,
    every: Every = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Send callbacks again: by id also delivered ones, else only those that were given up.

    The webhook-id stays the same, so that a receiver can tell what it has had already; only POSTs
    with several outcomes (--callback-batch) are put together anew, under new ids.
    """
    part = part_of(host, since, until)
    wanted = choice(ids, part, every=every)
    with client_of(settings) as client:
        told = [
            _again(client, settings, job_id)
            for job_id in wanted or _chosen(client, settings.namespace, part, yes=yes)
        ]
    if as_json:
        print_json(told)
    else:
        _show(told, part)
    if not all(each.waits for each in told):
        raise typer.Exit(FAILED)


def _chosen(client: redis.Redis, namespace: str, part: Part, *, yes: bool) -> list[str]:
    """The jobs of the undelivered callbacks of a part, newest first; asks before it takes them."""
    letters = found(client, namespace, part)
    if letters and not yes:
        many = len(letters) > 1
        count = f"{len(letters):,} undelivered callbacks" if many else "1 undelivered callback"
        typer.confirm(f"Send {count}{part.words} again?", abort=True, err=True)
    return [letter.id for letter in letters]


def _again(client: redis.Redis, settings: Settings, job_id: str) -> Tried:
    known = read_callback(client, settings.namespace, job_id)
    before = known[1] if known else None
    why = Runner(client).run(OutboxCalls.of(settings).redeliver(*split_id(job_id)))
    if why:
        return Tried(id=job_id, waits=False, why=_WHY.get(why, why))
    return Tried(id=job_id, waits=True, was=before.state if before else None)


def _show(told: list[Tried], part: Part) -> None:
    out = output()
    for each in told:
        if not each.waits:
            line = Text.assemble(("not replayed", "yellow"), f" {each.id}: {each.why}")
        elif each.was == DeliveryState.PENDING:
            line = Text.assemble(("waits already", "cyan"), f" {each.id}")
        else:
            line = Text.assemble(("replayed", "green"), f" {each.id}")
        out.print(line, soft_wrap=True)
    if not told:
        nothing = f"No undelivered callbacks{part.words}: nothing to replay."
        out.print(nothing, soft_wrap=True, markup=False)
