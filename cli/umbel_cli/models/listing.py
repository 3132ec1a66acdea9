"""``umbel models list`` and ``show``: what is registered, and how it fares."""

from __future__ import annotations

from typing import Annotated

import typer

from umbel_cli.options import Json, command
from umbel_cli.render import manifest_table, models_table, output, print_json
from umbel_cli.store import opened
from umbel_config.settings import Settings
from umbel_registry import Catalog


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    examples = ("umbel models list", "umbel models list --json")
    command(app, name="list", examples=examples)(list_models)
    command(app, examples=("umbel models show digits", "umbel models show digits 3 --json"))(show)


def list_models(settings: Settings, *, as_json: Json = False) -> None:
    """List all versions of all models."""
    with opened(settings) as client:
        manifests = Catalog(client, settings.namespace).list()
    if as_json:
        print_json([manifest.model_dump(mode="json") for manifest in manifests])
    elif manifests:
        output().print(models_table(manifests))
    else:
        output().print("No model is registered yet. Push one: umbel models push FOLDER")


def show(
    settings: Settings,
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    version: Annotated[
        str | None, typer.Argument(help="A version; default: the highest.", show_default=False)
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Show one version: signature, batching policy, queue and files."""
    with opened(settings) as client:
        manifest = Catalog(client, settings.namespace).get(name, version)
    if as_json:
        print_json(manifest.model_dump(mode="json"))
    else:
        output().print(manifest_table(manifest))
