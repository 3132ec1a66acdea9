"""The `umbel` command: puts all commands together."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from umbel_cli import jobs, lanes, up, work
from umbel_cli.callbacks import command as callbacks
from umbel_cli.dead import command as dead
from umbel_cli.demo import command as demo
from umbel_cli.doctor import command as doctor
from umbel_cli.models import command as models

app = typer.Typer(
    name="umbel",
    help="Batch inference on Celery and Redis: single requests in, one forward per batch.",
    epilog="Start with [bold]umbel demo[/bold]: it shows everything at work in a minute.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:  # noqa: FBT001  (Typer calls it with the flag)
    if wanted:
        typer.echo(f"umbel {version('umbel')}")
        raise typer.Exit


@app.callback()
def main(
    *,
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Batch inference on Celery and Redis: single requests in, one forward per batch."""


for part in (demo, up, work, jobs, lanes, doctor):
    part.add_to(app)
app.add_typer(models.app)
app.add_typer(dead.app)
app.add_typer(callbacks.app)


def run() -> None:
    """Runs the command line of this process."""
    app(prog_name="umbel")
