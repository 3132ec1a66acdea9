"""``umbel models report``: the versions of a route compared, and what is certain about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import redis
import typer

from umbel_cli.models.report_tables import comparison_table, notes
from umbel_cli.options import Json, command
from umbel_cli.render import output, print_json
from umbel_cli.store import opened
from umbel_config.errors import RouteInvalid, VersionNotFound
from umbel_config.settings import Settings
from umbel_registry.comparison import Comparison, compare
from umbel_registry.edits import Standing
from umbel_registry.figures import FiguresStore
from umbel_registry.route import Route
from umbel_registry.traffic import Traffic
from umbel_registry.traffic_control import TrafficControl


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What is known of one route.

    Attributes:
        model: name of the model.
        route: number of the route.
        shares: the part of the jobs that each version is to answer, between 0 and 1.
        shadows: the part of the jobs that each shadow gets copies of.
        comparison: the versions side by side.
    """

    model: str
    route: int
    shares: dict[str, float]
    shadows: dict[str, float]
    comparison: Comparison


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    examples = ("umbel models report digits", "umbel models report digits --route 3 --json")
    command(app, examples=examples)(report)


def report(
    settings: Settings,
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    *,
    route: Annotated[
        int | None,
        typer.Option(help="Number of an earlier route; default: the one in force.", min=0),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="Version to compare the others with; default: the one with the most weight that "
            "is no canary.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare the versions of a route: jobs, errors, latency, outputs, and how sure that is."""
    with opened(settings) as client:
        standing = TrafficControl(client, settings.namespace).read(name)
        told = report_of(client, settings.namespace, standing, number=route, baseline=baseline)
    if as_json:
        print_json(told)
        return
    out = output()
    out.print(f"[bold]{told.model}[/bold], route {told.route}\n")
    out.print(comparison_table(told.comparison))
    out.print()
    for note in notes(told.comparison):
        out.print(note)


def report_of(
    client: redis.Redis,
    namespace: str,
    standing: Standing,
    *,
    number: int | None = None,
    baseline: str | None = None,
) -> Report:
    """Compares the versions of one route of a model.

    Args:
        client: of the Redis that holds the figures.
        namespace: prefix of every key.
        standing: of the model.
        number: of a route; ``None``: the one in force.
        baseline: version or alias to compare the others with.

    Raises:
        RouteInvalid: there is no such route.
        VersionNotFound: the baseline answers no jobs of the route.
    """
    route = _route(standing, number)
    if baseline is None:
        against = _usual(route, standing.traffic)
    else:
        against = standing.version(baseline)
        if against not in route.weights:
            raise VersionNotFound(
                f"Version {against!r} answers no jobs of route {route.number} of "
                f"{standing.model}. These do: {', '.join(route.versions)}."
            )
    versions = (*route.versions, *route.shadows)
    figures = FiguresStore(client, namespace).read(standing.model, route.number, versions)
    return Report(
        model=standing.model,
        route=route.number,
        shares={version: route.share(version) for version in route.versions},
        shadows=dict(route.shadows),
        comparison=compare(figures, against, shadows=route.shadows),
    )


def _route(standing: Standing, number: int | None) -> Route:
    known = [each for each in (standing.route, *standing.traffic.earlier) if each is not None]
    for route in known:
        if number in {None, route.number}:
            return route
    if not known:
        raise RouteInvalid(
            f"Every version of {standing.model} is retired, so none answers: there is nothing to "
            "compare."
        )
    raise RouteInvalid(
        f"No route {number} of {standing.model} is remembered. There are: "
        f"{', '.join(str(each.number) for each in known)}."
    )


def _usual(route: Route, traffic: Traffic) -> str:
    """The version that others are to be compared with: the heaviest, but never a canary."""
    canary = traffic.canary.version if traffic.canary else None
    others = [version for version in route.versions if version != canary]
    return (others or route.versions)[0]
