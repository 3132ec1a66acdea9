"""``umbel models apply``: makes models stand as a file says that is kept in git."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import redis
import typer
from rich.text import Text

from umbel_cli.failures import FAILED, USAGE, facts, tell
from umbel_cli.models.asking import make_sure
from umbel_cli.models.keeping import after_change
from umbel_cli.models.tables import readiness_text
from umbel_cli.models.words import seconds
from umbel_cli.options import PUSH, Json, command
from umbel_cli.render import errors, output, print_json
from umbel_cli.store import opened
from umbel_config.errors import ModelError
from umbel_config.settings import Settings
from umbel_registry import Catalog, Manifest, TrafficControl
from umbel_registry.fleet import Fleet, Readiness
from umbel_registry.plan import Plan, Step, plan
from umbel_registry.plan_apply import Hands
from umbel_registry.plan_apply import apply as carry_out
from umbel_registry.plan_file import PLAN_FILE, PlanFile, read_plan_file
from umbel_registry.policy_keeper import PolicyKeeper

if TYPE_CHECKING:
    from umbel_registry import ArtifactStore

#: Exit code of a dry run that found something to do.
TO_DO = USAGE

File = Annotated[Path, typer.Argument(metavar="FILE", help="How your models should stand.")]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Only say what would be done; exit code 2 if anything would."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Now = Annotated[bool, typer.Option("--now", help="Do not wait for workers.")]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="TIME",
        parser=seconds,
        help="Longest wait for workers to load versions, in all. [dim](default: 5m)[/dim]",
    ),
]


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    examples = (
        "umbel models apply --dry-run",
        "umbel models apply",
        "umbel models apply models.yaml --yes --timeout 10m",
    )
    command(app, PUSH, examples=examples)(apply)


def apply(
    settings: Settings,
    file: File = Path(PLAN_FILE),
    *,
    dry_run: DryRun = False,
    yes: Yes = False,
    now: Now = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Make models stand as a file says: versions, aliases, routes, policies, what is retired.

    Shows what would change and asks. What the file does not name stays as it is.

    Routes and aliases change once workers have loaded the versions that gain jobs by that.
    """
    wanted = read_plan_file(file)
    from umbel_registry import ArtifactStore  # noqa: PLC0415  (needs fsspec)

    with opened(settings) as client:
        store = ArtifactStore(settings.artifacts)
        found = plan(wanted, store, TrafficControl(client, settings.namespace))
        problems = found.problems
        if not as_json:
            _show(found, wanted, file)
        if found.steps and not dry_run:
            hint = "Say --yes to do it, or --dry-run to see what would be done."
            make_sure("Do that?", yes=yes, as_json=as_json, else_say=hint)
            hands = _hands(settings, client, store, quiet=as_json)
            if timeout is not None:
                hands = replace(hands, timeout_s=timeout)
            problems = carry_out(found, replace(hands, why=str(file), now=now))
    _tell(found, problems, file, dry_run=dry_run, as_json=as_json)
    if problems:
        raise typer.Exit(FAILED)
    if dry_run and found.steps:
        raise typer.Exit(TO_DO)


def _hands(settings: Settings, client: redis.Redis, store: ArtifactStore, *, quiet: bool) -> Hands:
    out, shown = output(), [""]

    def on_push(manifest: Manifest) -> None:
        out.print(f"registered {manifest.name} {manifest.version}")

    def on_wait(manifest: Manifest, readiness: Readiness) -> None:
        line = f"waiting: {readiness_text(f'{manifest.name} {manifest.version}', readiness)}"
        if line != shown[0]:
            shown[0] = line
            errors().print(Text(line), soft_wrap=True)

    def on_done(model: str) -> None:
        PolicyKeeper(client, settings.namespace).apply(model)
        after_change(settings, client, model)
        if not quiet:
            out.print(f"[green]done[/green] {model}")

    hands = Hands(
        catalog=Catalog(client, settings.namespace),
        store=store,
        control=TrafficControl(client, settings.namespace),
        fleet=Fleet(client, settings.namespace),
        allowed_modules=settings.allowed_modules,
        device="cpu" if settings.device == "auto" else settings.device,
        on_done=on_done,
    )
    return hands if quiet else replace(hands, on_push=on_push, on_wait=on_wait)


def _show(found: Plan, wanted: PlanFile, file: Path) -> None:
    out = output()
    if found.steps:
        for line in plan_lines(found):
            out.print(line, soft_wrap=True)
        out.print()
    elif not found.problems:
        names = "1 model" if len(wanted.models) == 1 else f"{len(wanted.models)} models"
        out.print(f"Nothing to do: {names} as {file} says.", soft_wrap=True)
    for error in found.problems.values():
        tell(error, as_json=False)


def plan_lines(found: Plan) -> Iterator[Text]:
    """A plan as people read it, each step on a line below its model.

    Args:
        found: with at least one step.
    """
    width = max(len(step.thing) for step in found.steps)
    for model in found.models:
        if model.steps:
            yield Text(model.model, "bold")
        for step in model.steps:
            yield _line(step, width)


def _line(step: Step, width: int) -> Text:
    old, new = step.before, step.after
    sign, style = ("~", "yellow") if old and new else ("+", "green") if new else ("-", "red")
    if step.verb == "hold":
        sign, style, new = "=", "cyan", f"{new} while other versions come in"
    text = f"{old} -> {new}" if old and new else new or old or ""
    return Text.assemble((f"  {sign} {step.thing:<{width}}", style), "  ", text)


def _tell(
    found: Plan, problems: dict[str, ModelError], file: Path, *, dry_run: bool, as_json: bool
) -> None:
    if as_json:
        told = {model: facts(error) for model, error in problems.items()}
        print_json({"file": str(file), "dry_run": dry_run, "steps": found.steps, "problems": told})
        return
    for model, error in problems.items():
        if model not in found.problems:
            tell(error, as_json=False)
    if dry_run and found.steps:
        output().print("[yellow]A dry run: nothing was changed.[/yellow]")
