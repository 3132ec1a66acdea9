"""``umbel models promote``: a version gets all jobs once workers have it loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.text import Text

from umbel_cli.models.keeping import after_change
from umbel_cli.models.tables import print_change, readiness_text
from umbel_cli.models.words import DryRun, Model, Version, fraction, seconds
from umbel_cli.options import Json, command
from umbel_cli.render import errors
from umbel_cli.store import opened
from umbel_config.settings import Settings
from umbel_registry import TrafficControl, promotion
from umbel_registry.fleet import Fleet, Readiness

AliasName = Annotated[
    str | None, typer.Option("--alias", metavar="NAME", help="Move this alias; default: the route.")
]
MinReady = Annotated[
    float | None,
    typer.Option(
        "--min-ready",
        metavar="SHARE",
        parser=fraction,
        help="The part of the workers' slots, which are batches that they run side by side, that "
        "must have it loaded and warm. [dim](default: 100%)[/dim]",
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="TIME",
        parser=seconds,
        help="Longest wait for them: 30s, 5m, 1h. [dim](default: 5m)[/dim]",
    ),
]
Now = Annotated[bool, typer.Option("--now", help="Do not wait for workers.")]
#: Gets the readiness of a version each time it was looked at.
Tell = Callable[[Readiness], None]


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    examples = (
        "umbel models promote digits 4",
        "umbel models promote digits 4 --alias production",
        "umbel models promote digits 4 --min-ready 50% --timeout 15m",
    )
    command(app, examples=examples)(promote)


def promote(
    settings: Settings,
    model: Model,
    version: Version,
    *,
    alias: AliasName = None,
    min_ready: MinReady = None,
    timeout: Timeout = None,
    now: Now = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Give a version all jobs, in one step, once enough workers have it loaded and warm.

    Workers are asked to load it. Until they have, and if they cannot, all stays as it is.
    """
    looks: list[Readiness] = []
    with (
        opened(settings) as client,
        _progress(f"{model} {version}", quiet=dry_run or as_json) as tell,
    ):
        change = promotion.promote(
            TrafficControl(client, settings.namespace),
            Fleet(client, settings.namespace),
            model,
            version,
            alias=alias,
            min_ready=1.0 if min_ready is None else min_ready,
            timeout_s=300.0 if timeout is None else timeout,
            now=now,
            dry_run=dry_run,
            on_wait=looks.append if dry_run else tell,
        )
        after_change(settings, client, model, dry_run=dry_run)
    notes = [f"Now {readiness_text(f'{model} {version}', look)}." for look in looks]
    facts = {"workers": looks[-1]} if looks else {}
    print_change(change, dry_run=dry_run, as_json=as_json, notes=notes, facts=facts)


@contextmanager
def _progress(what: str, *, quiet: bool) -> Iterator[Tell]:
    """Shows on standard error how far the workers are: live on a terminal, else what is new."""
    console, shown = errors(), ""

    def say(readiness: Readiness) -> None:
        nonlocal shown
        line = f"waiting: {readiness_text(what, readiness)}"
        in_vain = readiness.slots == 0 or readiness.failed  # an error follows, and says it
        if line != shown and not in_vain:
            shown = line
            console.print(Text(line), soft_wrap=True)

    if quiet:
        yield lambda _: None
    elif console.is_terminal:
        with console.status(Text(f"waiting for workers to load {what}")) as status:
            yield lambda readiness: status.update(Text(readiness_text(what, readiness)))
    else:
        yield say
