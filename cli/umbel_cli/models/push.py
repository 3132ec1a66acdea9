"""``umbel models push``: a model folder becomes a version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from umbel_cli.doctor.workers import present
from umbel_cli.options import PUSH, Json, command
from umbel_cli.render import manifest_table, output, print_json
from umbel_cli.store import opened
from umbel_config.settings import Settings
from umbel_registry import Catalog, Manifest, TrafficControl, read_model_file
from umbel_registry.edits import Standing


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    examples = (
        "umbel models push ./digits",
        "umbel models push ./digits --version 2025-06",
        "umbel models push ./sampler --accept-batch-variance",
    )
    command(app, PUSH, examples=examples)(push)


def push(
    settings: Settings,
    folder: Annotated[Path, typer.Argument(help="Model folder: a model.yaml beside its weights.")],
    *,
    version: Annotated[
        str | None,
        typer.Option(help="Name of the version; default: as in model.yaml, else the next number."),
    ] = None,
    accept_batch_variance: Annotated[
        bool,
        typer.Option(
            "--accept-batch-variance",
            help="Admit a model whose outputs depend on the rest of the batch or on chance.",
        ),
    ] = False,
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
            accept_batch_variance=accept_batch_variance,
        )
        served = present(client, settings.namespace, [manifest.queue])[manifest.queue]
        standing = TrafficControl(client, settings.namespace).read(manifest.name)
    if as_json:
        print_json(manifest.model_dump(mode="json"))
    else:
        _tell(manifest, standing, served=bool(served))


def _tell(manifest: Manifest, standing: Standing, *, served: bool) -> None:
    """Says what was registered, whether jobs go to it now, and what to do next."""
    out, name = output(), manifest.name
    out.print(f"[green]registered[/green] [bold]{name} {manifest.version}[/bold]")
    out.print(manifest_table(manifest))
    route = standing.route
    if route is not None and manifest.version not in route.weights:
        answers = ", ".join(route.versions)
        out.print(
            f"\nJobs of {name} go to {answers}, as before. To give them to it: "
            f"umbel models promote {name} {manifest.version}",
            soft_wrap=True,
        )
    else:
        out.print(f"\nTry it:  umbel submit {name} --example", soft_wrap=True)
    if not served:
        out.print(
            f"[yellow]No worker serves queue {manifest.queue} yet.[/yellow] Start one: umbel up, "
            f"or umbel worker --queues {manifest.queue}",
            soft_wrap=True,
        )
