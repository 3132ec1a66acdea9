"""``umbel models show``: everything about one version, and who else answers for its model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import redis
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from umbel_batching.census import LaneStatus, lane_status
from umbel_batching.lanes import Lane
from umbel_cli.dead.tables import ago, one_line
from umbel_cli.models.listing import facts
from umbel_cli.models.policy import value_text
from umbel_cli.models.report_tables import shares_text
from umbel_cli.models.route import route_change, route_facts, route_source
from umbel_cli.models.tables import places_table, second_text, share_text, version_state_text
from umbel_cli.models.words import Model, length_text, percent_text
from umbel_cli.options import Json, command
from umbel_cli.render import grid, manifest_table, output, print_json
from umbel_cli.store import opened
from umbel_cli.tuning_tables import tuning_lines
from umbel_config.settings import Settings
from umbel_registry import TrafficControl
from umbel_registry.audit import Change, canary_text
from umbel_registry.edits import Standing
from umbel_registry.figures import FiguresStore
from umbel_registry.fleet import Fleet, LoadFailure
from umbel_registry.life import Life, life_of
from umbel_registry.versions import LATEST

#: Columns of the names of values, in all blocks.
_NAMES = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What is known of one version and its model.

    Attributes:
        standing: of the model.
        life: of the version.
        failure: why it did not load when that was last tried.
        change: the change that brought the route in force.
        padding: elements that filled up shorter inputs in its batches under that route, for each
            real one; ``None`` where its inputs have no lengths, or no batch ran.
        lane: of the version; ``None`` before its first job.
    """

    standing: Standing
    life: Life
    failure: LoadFailure | None
    change: Change | None
    padding: float | None
    lane: LaneStatus | None


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    examples = (
        "umbel models show digits",
        "umbel models show digits production",
        "umbel models show digits 3 --json",
    )
    command(app, examples=examples)(show)


def show(
    settings: Settings,
    model: Model,
    version: Annotated[
        str | None,
        typer.Argument(help="A version or alias; default: the highest.", show_default=False),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Show one version: signature, batching, files, state, where it is loaded; and its model."""
    with opened(settings) as client:
        known = _read(client, settings.namespace, model, version or LATEST)
    manifest = known.standing.manifests[known.life.version]
    if as_json:
        told = {"life": facts(known.life), "padding": known.padding, "lane": known.lane}
        told["traffic"] = _traffic_facts(known)
        print_json({**manifest.model_dump(mode="json"), **told})
        return
    out = output()
    out.print(_aligned(manifest_table(manifest)))
    _print_life(out, known)
    _print_model(out, known)


def _read(client: redis.Redis, namespace: str, model: str, word: str) -> _Known:
    fleet, control = Fleet(client, namespace), TrafficControl(client, namespace)
    standing = control.read(model)
    version = standing.version(word)
    failures = fleet.failures(model)
    number = standing.traffic.number_in_force
    figures = FiguresStore(client, namespace).read(model, number, [version])
    failed = {name: failure.error for name, failure in failures.items()}
    return _Known(
        standing=standing,
        life=life_of(standing, version, fleet.reports(), failed),
        failure=failures.get(version),
        change=route_change(control, model),
        padding=figures[version].padding,
        lane=lane_status(client, namespace, Lane(model=model, version=version).name),
    )


def _print_life(out: Console, known: _Known) -> None:
    """What the version is at."""
    table = _aligned(grid())
    for name, value in _life_rows(known):
        table.add_row(name, value)
    out.print("\n[bold]Now[/bold]")
    out.print(table)
    if known.life.places:
        out.print()
        out.print(places_table(known.life.places, known.standing.now_ms))


def _aligned(table: Table) -> Table:
    """The table with names as wide as those of its neighbours."""
    table.columns[0].min_width = _NAMES
    return table


def _life_rows(known: _Known) -> Iterator[tuple[str, Text]]:
    life, standing = known.life, known.standing
    state = version_state_text(life.state)
    yield "state", state.append(f", {one_line(life.why)}") if life.why else state
    yield "share", Text(share_text(life))
    if life.aliases:
        yield "aliases", Text(", ".join(life.aliases))
    yield "batching", _policy_text(standing, life.version)
    if known.padding is not None:
        yield "padding", Text(f"{shares_text(known.padding)} on top of the inputs, on this route")
    for line in tuning_lines(known.lane):
        yield "tuned", Text(line)
    wanted = standing.traffic.wanted.get(life.version, 0) - standing.now_ms
    if wanted > 0:
        yield "wanted", Text(f"workers keep it loaded for another {length_text(wanted // 1000)}")
    retirement = standing.traffic.retired.get(life.version)
    if retirement is not None:
        past = ago(retirement.at, standing.now_ms)
        yield "retired", Text(f"{second_text(retirement.at)}, {past}")
    if known.failure is not None:
        when = f"{ago(known.failure.at, standing.now_ms)} on {known.failure.worker}"
        yield "last error", Text(f"{when}: {known.failure.error}", style="red")


def _policy_text(standing: Standing, version: str) -> Text:
    """What differs from the policy that the version was pushed with."""
    changes = standing.traffic.policies.get(version)
    if not changes:
        return Text("as pushed")
    own = standing.manifests[version].policy
    now = standing.traffic.policy_of(version, own)
    parts = (
        f"{name} {value_text(getattr(now, name))} (pushed: {value_text(getattr(own, name))})"
        for name in changes
    )
    return Text(", ".join(parts), style="yellow")


def _print_model(out: Console, known: _Known) -> None:
    """Who answers for the model as a whole."""
    table = _aligned(grid())
    for name, value in _model_rows(known):
        table.add_row(name, Text(value))
    out.print(Text.assemble("\n", (f"All of {known.standing.model}", "bold")))
    out.print(table)


def _model_rows(known: _Known) -> Iterator[tuple[str, str]]:
    standing, traffic, route = known.standing, known.standing.traffic, known.standing.route
    yield "versions", ", ".join(standing.manifests)
    yield "route", route_source(standing, known.change)
    if route is not None:
        shares = (f"{version}: {percent_text(route.share(version))}" for version in route.versions)
        yield "jobs go to", ", ".join(shares)
        copies = (f"{version}: {percent_text(part)}" for version, part in route.shadows.items())
        if route.shadows:
            yield "copies to", ", ".join(copies)
    if traffic.aliases:
        yield "aliases", ", ".join(f"{name} = {traffic.aliases[name]}" for name in traffic.aliases)
    if traffic.canary is not None:
        reason = traffic.canary.reason if traffic.canary.under_way else ""
        yield "canary", canary_text(traffic.canary) + (f": {reason}" if reason else "")
    count = len(traffic.earlier)
    if count:
        yield "earlier", "1 route to return to" if count == 1 else f"{count} routes to return to"


def _traffic_facts(known: _Known) -> dict[str, Any]:
    standing, traffic = known.standing, known.standing.traffic
    return {
        **route_facts(standing, known.change),
        "versions": [*standing.manifests],
        "aliases": traffic.aliases,
        "retired": {name: each.model_dump() for name, each in traffic.retired.items()},
        "policies": traffic.policies,
        "wanted": traffic.wanted,
        "canary": traffic.canary.model_dump() if traffic.canary else None,
        "last_failure": known.failure,
    }
