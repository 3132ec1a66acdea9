"""``umbel dead``: puts its commands together."""

from __future__ import annotations

import typer

from umbel_cli.dead import drop, evidence, listing, replay

app = typer.Typer(
    name="dead",
    help="List dead letters, show why they died, run them again or drop them.",
    no_args_is_help=True,
)
for part in (listing, evidence, replay, drop):
    part.add_to(app)
