"""``umbel models route``: which versions answer, and which get copies to be compared."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from umbel_cli.models.keeping import after_change
from umbel_cli.models.tables import (
    print_change,
    print_failures,
    second_text,
    share_text,
    version_state_text,
)
from umbel_cli.models.words import DryRun, Model, fraction, number, pairs, percent_text
from umbel_cli.options import Json, command
from umbel_cli.render import output, print_json
from umbel_cli.store import opened
from umbel_config.errors import RouteInvalid
from umbel_config.settings import Settings
from umbel_registry import Route, TrafficControl, edits
from umbel_registry.audit import Change
from umbel_registry.edits import Standing
from umbel_registry.life import Life, lives
from umbel_registry.route import moved
from umbel_registry.traffic_control import MOST_KEPT

Weights = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="VERSION=WEIGHT",
        help="Versions that answer, and how much of the jobs relative to the others; without any "
        "they stay as they are.",
        show_default=False,
    ),
]
Shadows = Annotated[
    list[str] | None,
    typer.Option(
        "--shadow",
        metavar="VERSION=SHARE",
        help="A version that gets copies of that share of the jobs; its outputs are compared and "
        "go to nobody. Takes the place of all shadows so far; may be given repeatedly.",
    ),
]
NoShadows = Annotated[bool, typer.Option("--no-shadows", help="No version gets copies any more.")]


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    examples = (
        "umbel models route digits",
        "umbel models route digits 3=90 4=10",
        "umbel models route digits 3=90 4=10 --shadow 5=5%",
        "umbel models route digits --no-shadows",
    )
    command(app, examples=examples)(route)


def route(
    settings: Settings,
    model: Model,
    weights: Weights = None,
    *,
    shadow: Shadows = None,
    no_shadows: NoShadows = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Split the jobs of a model among its versions, or show how they are split.

    Jobs of one routing key go to one version, and a change moves as few keys as it must.
    Jobs submitted to a version or an alias are not concerned.
    """
    parts = {
        version: number(text, f"the weight of {version}")
        for version, text in pairs(weights or (), "VERSION=WEIGHT").items()
    }
    copies = _copies(shadow or [], none=no_shadows)
    with opened(settings) as client:
        control = TrafficControl(client, settings.namespace)
        standing = control.read(model)
        if not parts and copies is None:
            known = lives(client, settings.namespace, standing)
            _show(standing, known, route_change(control, model), as_json=as_json)
            return
        parts = parts or _weights_so_far(standing)
        planned = edits.with_route(standing, parts, copies).route
        change = control.route(model, parts, copies, dry_run=dry_run)
        after_change(settings, client, model, dry_run=dry_run)
    part = moved(standing.route, planned) if standing.route and planned else 0.0
    notes = [_moved_text(part)] if change.changes else []
    print_change(change, dry_run=dry_run, as_json=as_json, notes=notes, facts={"moved": part})


def _copies(words: list[str], *, none: bool) -> dict[str, float] | None:
    """The shadows asked for; ``None``: as they are."""
    if none and words:
        raise typer.BadParameter("--shadow and --no-shadows contradict each other.")
    if not none and not words:
        return None
    given = pairs(words, "VERSION=SHARE")
    return {version: fraction(text) for version, text in given.items()}


def _weights_so_far(standing: Standing) -> dict[str, float]:
    if standing.route is None:
        raise RouteInvalid(
            f"Every version of {standing.model} is retired, so none answers. Say which one is to: "
            f"umbel models route {standing.model} VERSION=1"
        )
    return dict(standing.route.weights)


def _moved_text(part: float) -> str:
    if part == 0:
        return "No routing key goes to another version than before."
    return f"{percent_text(part)} of the routing keys go to another version than before."


def route_change(control: TrafficControl, model: str) -> Change | None:
    """The change that brought the route in force; ``None`` if it is not remembered.

    Args:
        control: of the routes.
        model: name of the model.
    """
    history = control.history(model, MOST_KEPT)
    about = (
        change
        for change in history
        if any(name == "route" or name.startswith("shadow ") for name in change.changes)
    )
    return next(about, None)


def _show(
    standing: Standing, known: dict[str, Life], change: Change | None, *, as_json: bool
) -> None:
    if as_json:
        print_json({"model": standing.model, **route_facts(standing, change)})
        return
    out = output()
    out.print(Text.assemble((standing.model, "bold"), f": {route_source(standing, change)}\n"))
    if standing.route is not None:
        out.print(_table(standing.route, known))
        shown = (*standing.route.versions, *standing.route.shadows)
        print_failures(out, [known[version] for version in shown])


def route_source(standing: Standing, change: Change | None) -> str:
    """Where the route in force comes from, in words.

    Args:
        standing: of the model.
        change: the one that brought it.
    """
    if standing.route is None:
        return "every version is retired, so none answers"
    if standing.traffic.route is None:
        return "no route is set, so the highest version answers"
    text = f"route {standing.traffic.route.number}"
    if change is None:
        return text
    return f"{text}, since {second_text(change.at)} by {change.who} ({change.what})"


def route_facts(standing: Standing, change: Change | None) -> dict[str, Any]:
    """The route in force, for programs.

    Args:
        standing: of the model.
        change: the one that brought it.
    """
    route = standing.route
    return {
        "route": None
        if route is None
        else {
            "number": route.number,
            "weights": route.weights,
            "shares": {version: route.share(version) for version in route.versions},
            "shadows": route.shadows,
            "set": standing.traffic.route is not None,
        },
        "since": change.at if change and standing.traffic.route else None,
        "by": change.who if change and standing.traffic.route else None,
        "earlier": len(standing.traffic.earlier),
    }


def _table(route: Route, known: dict[str, Life]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("version", no_wrap=True)
    table.add_column("weight", justify="right", no_wrap=True)
    table.add_column("share of jobs", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("aliases")
    for version in (*route.versions, *route.shadows):
        life = known[version]
        weight = f"{route.weights[version]:g}" if version in route.weights else "shadow"
        table.add_row(
            version,
            weight,
            share_text(life),
            version_state_text(life.state),
            Text(", ".join(life.aliases)),
        )
    return table
