"""``umbel callbacks secret``: a new secret."""

from __future__ import annotations

import typer

from umbel_callbacks.signing import new_secret
from umbel_cli.options import command
from umbel_cli.render import errors
from umbel_config.settings import Settings

_NEXT = (
    "Set it as UMBEL_CALLBACK_SECRETS where `umbel sender` runs, and give it to your receivers. "
    "While you replace an old one, set both: NEW,OLD."
)


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    examples = ("umbel callbacks secret", "umbel callbacks secret > callback-secret")
    command(app, examples=examples)(secret)


def secret(settings: Settings) -> None:  # noqa: ARG001  (so that it takes what all commands take)
    """Print a new secret to sign callbacks with, and nothing else."""
    typer.echo(new_secret())
    err = errors()
    if err.is_terminal:
        err.print(_NEXT, style="dim", soft_wrap=True, markup=False)
