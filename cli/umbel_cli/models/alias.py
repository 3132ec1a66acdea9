"""``umbel models alias``: movable names of versions."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from umbel_cli.models.keeping import after_change
from umbel_cli.models.tables import print_change
from umbel_cli.models.words import DryRun, Model, pairs
from umbel_cli.options import Json, command
from umbel_cli.render import grid, output, print_json
from umbel_cli.store import opened
from umbel_config.errors import VersionNotFound
from umbel_config.settings import Settings
from umbel_registry import TrafficControl
from umbel_registry.edits import Standing
from umbel_registry.resolve import listing


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    examples = (
        "umbel models alias digits",
        "umbel models alias digits production=3 staging=4",
        "umbel models alias digits --remove staging",
    )
    command(app, examples=examples)(alias)


def alias(
    settings: Settings,
    model: Model,
    moves: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME=VERSION",
            help="Names, and the version each is to mean.",
            show_default=False,
        ),
    ] = None,
    *,
    remove: Annotated[
        list[str] | None,
        typer.Option("--remove", metavar="NAME", help="Remove a name; may be given repeatedly."),
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Name versions of a model, or show their names: callers submit to such a name.

    All names given move in one step. Jobs that wait stay with the version they were meant for.
    """
    given = pairs(moves or (), "NAME=VERSION")
    both = [name for name in remove or () if name in given]
    if both:
        raise typer.BadParameter(f"{both[0]!r} cannot be both set and removed.")
    with opened(settings) as client:
        control = TrafficControl(client, settings.namespace)
        standing = control.read(model)
        if not given and not remove:
            _show(standing, as_json=as_json)
            return
        _check_there(standing, remove or [])
        wanted = {**given, **dict.fromkeys(remove or ())}
        change = control.alias(model, wanted, dry_run=dry_run)
        after_change(settings, client, model, dry_run=dry_run)
    print_change(change, dry_run=dry_run, as_json=as_json)


def _check_there(standing: Standing, names: list[str]) -> None:
    """A name to be removed that is not there was most likely meant to be another one."""
    aliases = standing.traffic.aliases
    for name in names:
        if name not in aliases:
            there = listing("It has", sorted(aliases), name) if aliases else "It has none."
            raise VersionNotFound(f"{standing.model} has no alias {name!r}. {there}")


def _show(standing: Standing, *, as_json: bool) -> None:
    aliases = dict(sorted(standing.traffic.aliases.items()))
    if as_json:
        print_json(aliases)
        return
    if not aliases:
        newest = [*standing.manifests][-1]
        output().print(
            f"{standing.model} has no alias. Make one: "
            f"umbel models alias {standing.model} production={newest}",
            soft_wrap=True,
        )
        return
    table = grid()
    for name, version in aliases.items():
        table.add_row(Text(name), Text(version, style="bold"))
    output().print(table)
