"""``umbel models policy``: how jobs of a version are gathered, changed while it runs."""

from __future__ import annotations

from typing import Annotated, Any

import redis
import typer
from rich.table import Table
from rich.text import Text

from umbel_cli.models.keeping import after_change
from umbel_cli.models.tables import print_change
from umbel_cli.models.words import DryRun, Model, pairs
from umbel_cli.options import Json, command
from umbel_cli.render import output, print_json
from umbel_cli.store import opened
from umbel_config.errors import RouteInvalid
from umbel_config.settings import Settings
from umbel_registry import TrafficControl
from umbel_registry.edits import Standing
from umbel_registry.policy_keeper import PolicyKeeper

#: As a value: what the version was pushed with.
_RESET = "reset"


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    examples = (
        "umbel models policy digits",
        "umbel models policy digits max_wait_ms=2 max_batch_size=128",
        "umbel models policy digits mode=adaptive latency_objective_ms=50",
        "umbel models policy digits 3 max_wait_ms=reset",
        "umbel models policy digits 3 --reset",
    )
    command(app, examples=examples)(policy)


def policy(
    settings: Settings,
    model: Model,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="VERSION|NAME=VALUE",
            help="First a version or alias; default: all versions of the route. Then values, by "
            "the names of the section batching of model.yaml; reset is what was pushed.",
            show_default=False,
        ),
    ] = None,
    *,
    reset: Annotated[
        bool, typer.Option("--reset", help="Return to all values it was pushed with.")
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Change how the jobs of a version are gathered into batches, or show it.

    Jobs that wait already and workers follow at once; the version itself never changes.
    """
    version, given = _split(words or [])
    if reset and given:
        raise typer.BadParameter("--reset goes with no NAME=VALUE; to reset one: NAME=reset")
    values = {name: None if value == _RESET else value for name, value in given.items()}
    with opened(settings) as client:
        standing = TrafficControl(client, settings.namespace).read(model)
        versions = _versions(standing, version)
        if given or reset:
            changes = None if reset else values
            _change(client, settings, model, versions, changes, dry_run=dry_run, as_json=as_json)
            return
    _show(standing, versions, as_json=as_json)


def _split(words: list[str]) -> tuple[str | None, dict[str, str]]:
    """The version, if one comes first, and the values."""
    if words and "=" not in words[0]:
        return words[0], pairs(words[1:], "NAME=VALUE")
    return None, pairs(words, "NAME=VALUE")


def _versions(standing: Standing, version: str | None) -> list[str]:
    if version is not None:
        return [standing.version(version)]
    if standing.route is None:
        raise RouteInvalid(
            f"Every version of {standing.model} is retired, so say which one you mean: "
            f"umbel models policy {standing.model} VERSION"
        )
    return list(standing.route.versions)


def _change(
    client: redis.Redis,
    settings: Settings,
    model: str,
    versions: list[str],
    changes: dict[str, str | None] | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    control = TrafficControl(client, settings.namespace)
    # Tried on all versions first, so that a value that one cannot have changes none of them.
    planned = [control.set_policy(model, each, changes, dry_run=True) for each in versions]
    done = planned
    if not dry_run:
        done = [control.set_policy(model, each, changes) for each in versions]
        PolicyKeeper(client, settings.namespace).apply(model)
        after_change(settings, client, model)
    merged = {name: pair for change in done for name, pair in change.changes.items()}
    whole = done[-1].model_copy(update={"changes": merged})
    print_change(whole, dry_run=dry_run, as_json=as_json, facts={"versions": versions})


def _show(standing: Standing, versions: list[str], *, as_json: bool) -> None:
    if as_json:
        print_json({version: policy_facts(standing, version) for version in versions})
        return
    out = output()
    for place, version in enumerate(versions):
        if place:
            out.print()
        out.print(_table(standing, version))


def policy_facts(standing: Standing, version: str) -> dict[str, dict[str, Any]]:
    """The policy that a version was pushed with and the one in force, for programs.

    Args:
        standing: of the model.
        version: one of its versions.
    """
    own = standing.manifests[version].policy
    in_force = standing.traffic.policy_of(version, own)
    return {"pushed": own.model_dump(), "in_force": in_force.model_dump()}


def _table(standing: Standing, version: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(Text(f"{standing.model} {version}"), no_wrap=True)
    for name in ("pushed", "in force"):
        table.add_column(name, justify="right", no_wrap=True)
    facts = policy_facts(standing, version)
    for name, own in facts["pushed"].items():
        now = facts["in_force"][name]
        style = "" if now == own else "bold yellow"
        table.add_row(name, value_text(own), Text(value_text(now), style=style))
    return table


def value_text(value: bool | int | str) -> str:  # noqa: FBT001  (to be shown, not a switch)
    """One value of a batching policy."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else f"{value:,}"
