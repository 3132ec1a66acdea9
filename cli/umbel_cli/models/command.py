"""``umbel models``: puts its commands together."""

from __future__ import annotations

import typer

from umbel_cli.models import (
    alias,
    apply,
    canary,
    history,
    listing,
    policy,
    promote,
    push,
    report,
    restore,
    retire,
    rollback,
    route,
    show,
    warm,
)

app = typer.Typer(
    name="models",
    help="Push models, see what they do, and decide which version answers.",
    no_args_is_help=True,
)
for part in (
    *(push, listing, show),
    *(alias, route, promote, canary, rollback, retire),
    *(policy, warm, history, report),
    *(apply, restore),
):
    part.add_to(app)
