"""``umbel models``: push a folder as a version, list what is registered, show one version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from umbel_cli.options import PUSH, Json, command
from umbel_cli.render import manifest_table, models_table, output, print_json
from umbel_cli.store import opened
from umbel_config.settings import Settings
from umbel_registry import Catalog, read_model_file

app = typer.Typer(name="models", help="Push models, list and show them.", no_args_is_help=True)


@command(
    app,
    PUSH,
    examples=("umbel models push ./digits", "umbel models push ./digits --version 2025-06"),
)
def push(
    settings: Settings,
    folder: Annotated[Path, typer.Argument(help="Model folder: a model.yaml beside its weights.")],
    *,
    version: Annotated[
        str | None,
        typer.Option(help="Name of the version; default: as in model.yaml, else the next number."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a model folder, try it out and register it as a version."""
    read_model_file(folder)  # says what is wrong with it before torch has taken its seconds
    from umbel_registry import ArtifactStore, push as register  # noqa: I001, PLC0415  (loads torch)

    with opened(settings) as client:
        manifest = register(
            folder,
            catalog=Catalog(client, settings.namespace),
            store=ArtifactStore(settings.artifacts),
            version=version,
            allowed_modules=settings.allowed_modules,
            device="cpu" if settings.device == "auto" else settings.device,
        )
    if as_json:
        print_json(manifest.model_dump(mode="json"))
        return
    out = output()
    out.print(f"[green]registered[/green] [bold]{manifest.name} {manifest.version}[/bold]")
    out.print(manifest_table(manifest))
    out.print(f"\nTry it:  umbel submit {manifest.name} --example", soft_wrap=True)


@command(app, name="list", examples=("umbel models list", "umbel models list --json"))
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


@command(app, examples=("umbel models show digits", "umbel models show digits 3 --json"))
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
