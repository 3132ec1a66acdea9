"""``umbel models list``: what is registered, and what each version is at."""

from __future__ import annotations

from typing import Any

import msgspec
import redis
import typer

from umbel_cli.models.tables import models_table, print_failures
from umbel_cli.options import Json, command
from umbel_cli.render import output, print_json
from umbel_cli.store import opened
from umbel_config.settings import Settings
from umbel_registry import Catalog, Manifest, TrafficControl
from umbel_registry.fleet import Fleet
from umbel_registry.life import Life, life_of


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    examples = ("umbel models list", "umbel models list --json")
    command(app, name="list", examples=examples)(list_models)


def list_models(settings: Settings, *, as_json: Json = False) -> None:
    """List all versions of all models: state, share of the jobs, aliases, inputs and outputs.

    A narrow terminal shows fewer columns; umbel models show tells everything about one version.
    """
    with opened(settings) as client:
        entries = _entries(client, settings.namespace)
    if as_json:
        print_json([{**own.model_dump(mode="json"), "life": facts(life)} for own, life in entries])
    elif entries:
        out = output()
        out.print(models_table(entries, out))
        print_failures(out, [life for _, life in entries])
    else:
        output().print("No model is registered yet. Push one: umbel models push FOLDER")


def _entries(client: redis.Redis, namespace: str) -> list[tuple[Manifest, Life]]:
    fleet, control = Fleet(client, namespace), TrafficControl(client, namespace)
    reports, entries = fleet.reports(), []
    for name in Catalog(client, namespace).names():
        standing = control.read(name)
        failed = {version: each.error for version, each in fleet.failures(name).items()}
        for version, manifest in standing.manifests.items():
            entries.append((manifest, life_of(standing, version, reports, failed)))
    return entries


def facts(life: Life) -> dict[str, Any]:
    """What a version is at, for programs.

    Args:
        life: of the version.
    """
    places = [
        {"worker": each.worker, "process": each.process, **msgspec.to_builtins(each.held)}
        for each in life.places
    ]
    return {
        "state": life.state.value,
        "why": life.why,
        "share": life.share,
        "shadow": life.shadow,
        "aliases": list(life.aliases),
        "places": places,
    }
