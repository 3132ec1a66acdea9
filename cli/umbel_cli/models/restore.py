"""``umbel models restore``: what Redis has lost comes back from the artifact root."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import redis
import typer
from rich.text import Text

from umbel_cli.failures import FAILED, facts, tell
from umbel_cli.models.asking import make_sure
from umbel_cli.models.keeping import after_change
from umbel_cli.models.tables import change_lines
from umbel_cli.options import Json, command
from umbel_cli.render import output, print_json
from umbel_cli.store import opened
from umbel_config.errors import ModelError
from umbel_config.settings import Settings
from umbel_registry import Catalog, TrafficControl
from umbel_registry.audit import Change
from umbel_registry.policy_keeper import PolicyKeeper

if TYPE_CHECKING:
    from umbel_registry import ArtifactStore
    from umbel_registry.keepsake import Keepsake


@dataclass(slots=True)
class Restored:
    """What came back, and what could not.

    Attributes:
        versions: what is registered now and was not, ``model@version``.
        traffic: what changed about models.
        problems: what is damaged or contradicts what is registered.
    """

    versions: list[str] = field(default_factory=list)
    traffic: list[Change] = field(default_factory=list)
    problems: list[ModelError] = field(default_factory=list)


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    examples = ("umbel models restore", "umbel models restore --traffic")
    command(app, examples=examples)(restore)


def restore(
    settings: Settings,
    *,
    traffic: Annotated[
        bool,
        typer.Option(
            "--traffic",
            help="Put kept routes, aliases and the rest back even where Redis has some; asks.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Rebuild what Redis knows of models from the artifact root.

    Registers all versions there, and puts back kept routes and aliases where Redis has none.

    Workers do the same on their own when they notice that Redis has lost its data.
    """
    from umbel_registry import ArtifactStore  # noqa: PLC0415  (needs fsspec)
    from umbel_registry.keepsake import Keepsake  # noqa: PLC0415  (with it)

    with opened(settings) as client:
        store, told = ArtifactStore(settings.artifacts), Restored()
        catalog = Catalog(client, settings.namespace)
        _register(catalog, store, told)
        keepsake = Keepsake(store, TrafficControl(client, settings.namespace))
        models = catalog.names()
        if traffic:
            planned = Restored()
            _put_back(keepsake, models, planned, force=True, dry_run=True)
            if planned.traffic:
                if not as_json:
                    _show(planned.traffic)
                hint = "Say --yes to put it back."
                make_sure("Put that back?", yes=yes, as_json=as_json, else_say=hint)
        _put_back(keepsake, models, told, force=traffic)
        _follow(settings, client, told.traffic)
    _tell(told, as_json=as_json)
    if told.problems:
        raise typer.Exit(FAILED)


def _register(catalog: Catalog, store: ArtifactStore, told: Restored) -> None:
    before = _versions(catalog)
    try:
        catalog.restore(store)
    except ModelError as error:
        told.problems.append(error)
    told.versions = [version for version in _versions(catalog) if version not in before]


def _versions(catalog: Catalog) -> list[str]:
    return [f"{name}@{version}" for name in catalog.names() for version in catalog.versions(name)]


def _put_back(
    keepsake: Keepsake,
    models: Iterable[str],
    told: Restored,
    *,
    force: bool,
    dry_run: bool = False,
) -> None:
    for model in models:
        try:
            change = keepsake.restore(model, force=force, dry_run=dry_run)
        except ModelError as error:
            told.problems.append(error)
        else:
            told.traffic += [change] if change else []


def _follow(settings: Settings, client: redis.Redis, changes: list[Change]) -> None:
    """Brings lanes to the policies that came back, and keeps the new count of changes."""
    for change in changes:
        PolicyKeeper(client, settings.namespace).apply(change.model)
        after_change(settings, client, change.model)


def _show(changes: list[Change]) -> None:
    out = output()
    for change in changes:
        out.print(Text.assemble((change.model, "bold"), f"  {change.why}"), soft_wrap=True)
        for line in change_lines(change):
            out.print(Text("  ").append_text(line), soft_wrap=True)


def _tell(told: Restored, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "versions": told.versions,
                "traffic": [change.model_dump(mode="json") for change in told.traffic],
                "problems": [facts(error) for error in told.problems],
            }
        )
        return
    out = output()
    for version in told.versions:
        out.print(f"[green]registered[/green] {version.replace('@', ' ')}")
    if told.traffic:
        out.print("[green]put back[/green]")
        _show(told.traffic)
    if not (told.versions or told.traffic or told.problems):
        out.print("Nothing is missing.")
    for error in told.problems:
        tell(error, as_json=False)
