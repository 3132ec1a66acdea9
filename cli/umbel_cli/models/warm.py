"""``umbel models warm``: workers load a version before jobs come for it."""

from __future__ import annotations

from typing import Annotated

import typer

from umbel_cli.models.keeping import after_change
from umbel_cli.models.tables import readiness_text
from umbel_cli.models.words import Model, Version, length_text, seconds
from umbel_cli.options import Json, command
from umbel_cli.render import output, print_json
from umbel_cli.store import opened
from umbel_config.settings import Settings
from umbel_registry import TrafficControl
from umbel_registry.fleet import Fleet

_DEFAULT_S = 600.0


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    examples = ("umbel models warm digits 4", "umbel models warm digits 4 --for 2h")
    command(app, examples=examples)(warm)


def warm(
    settings: Settings,
    model: Model,
    version: Version,
    *,
    length: Annotated[
        float | None,
        typer.Option(
            "--for",
            metavar="TIME",
            parser=seconds,
            help="How long they keep it at least: 90s, 10m, 2h. [dim](default: 10m)[/dim]",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask workers to load a version now, and say which have it.

    It does not wait; ask again to see how far they are.
    """
    for_s = _DEFAULT_S if length is None else length
    with opened(settings) as client:
        control = TrafficControl(client, settings.namespace)
        standing = control.read(model)
        chosen = standing.live(version)
        control.want(model, chosen, for_s)
        after_change(settings, client, model)
        readiness = Fleet(client, settings.namespace).readiness(standing.manifests[chosen])
    if as_json:
        print_json({"model": model, "version": chosen, "for_s": for_s, "workers": readiness})
        return
    what = f"{model} {chosen}"
    out = output()
    out.print(f"Workers are asked to keep {what} loaded for {length_text(for_s)}.", soft_wrap=True)
    out.print(f"Now {readiness_text(what, readiness)}.", soft_wrap=True, markup=False)
    if readiness.slots == 0:
        queue = standing.manifests[chosen].queue
        out.print(f"Start one: umbel worker --queues {queue}", soft_wrap=True)
