"""``umbel models``: puts its commands together."""

from __future__ import annotations

import typer

from umbel_cli.models import listing, push

app = typer.Typer(
    name="models",
    help="Push models, see what they do, and decide which version answers.",
    no_args_is_help=True,
)
for part in (push, listing):
    part.add_to(app)
