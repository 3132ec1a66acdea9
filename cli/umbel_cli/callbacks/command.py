"""``umbel callbacks``: puts its commands together."""

from __future__ import annotations

import typer

from umbel_cli.callbacks import delivery, listing, receivers, replay, secret, verify

app = typer.Typer(
    name="callbacks",
    help="List undelivered callbacks and receivers, send callbacks again, check signatures.",
    no_args_is_help=True,
)
for part in (listing, receivers, delivery, replay, verify, secret):
    part.add_to(app)
