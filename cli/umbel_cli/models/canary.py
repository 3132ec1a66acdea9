"""``umbel models canary``: a version gets ever more of the jobs as long as it does well."""

from __future__ import annotations

from time import sleep
from typing import Annotated, Any

import redis
import typer
from rich.text import Text

from umbel_cli.models.canary_shown import Teller, facts, show
from umbel_cli.models.keeping import after_change
from umbel_cli.models.tables import print_change
from umbel_cli.models.words import DryRun, Model, fraction, seconds
from umbel_cli.options import Json, command
from umbel_cli.render import errors, print_json
from umbel_cli.store import opened
from umbel_config.errors import NotReady, RouteInvalid
from umbel_config.settings import Settings
from umbel_registry import TrafficControl
from umbel_registry import canary as canaries
from umbel_registry.audit import Change
from umbel_registry.canary import MIN_JOBS, WARM_S
from umbel_registry.canary_step import holds
from umbel_registry.edits import Standing
from umbel_registry.fleet import Fleet
from umbel_registry.traffic import Canary

_STEPS, _EVERY_S, _MAX_ERROR_RATE = "1,5,25,100", 60.0, 0.01
#: Seconds between two looks at a canary that is followed.
_PAUSE_S = 0.5
#: What a command ends with whose terminal sent an interrupt, by custom.
_INTERRUPTED = 130


Steps = Annotated[
    str,
    typer.Option(
        "--steps",
        metavar="PERCENTS",
        help="What it gets of the jobs, step by step, rising. Where the last one is below 100, it "
        "stays at that.",
    ),
]
Every = Annotated[
    float | None,
    typer.Option(
        "--every",
        metavar="TIME",
        parser=seconds,
        help="How long each step lasts at least: 30s, 5m, 1h. [dim](default: 60s)[/dim]",
    ),
]
MaxErrorRate = Annotated[
    float | None,
    typer.Option(
        "--max-error-rate",
        metavar="SHARE",
        parser=fraction,
        help="Highest share of its jobs that may fail: 1% or, the same, 0.01. "
        "[dim](default: 1%)[/dim]",
    ),
]
MaxP95 = Annotated[
    float | None,
    typer.Option(
        "--max-p95-ms",
        metavar="MS",
        help="Highest 95th percentile of the time from arrival to result; default: any.",
        show_default=False,
    ),
]
MinJobs = Annotated[
    int, typer.Option("--min-jobs", metavar="N", help="Jobs of it that each step waits for.")
]
WarmTimeout = Annotated[
    float | None,
    typer.Option(
        "--warm-timeout",
        metavar="TIME",
        parser=seconds,
        help="How long workers may take to load it before the first step. [dim](default: 5m)[/dim]",
    ),
]
Detach = Annotated[
    bool, typer.Option("--detach", help="Begin it and return; workers drive it all the same.")
]
Stop = Annotated[bool, typer.Option("--stop", help="End it; jobs go where they went before.")]
Promote = Annotated[
    bool, typer.Option("--promote", help="With --stop: give its version all jobs instead.")
]
Tried = Annotated[
    str | None,
    typer.Argument(
        metavar="VERSION",
        help="The version to try, or an alias of it; without one, how the canary of the model "
        "fares is shown.",
        show_default=False,
    ),
]


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    examples = (
        "umbel models canary digits 4 --every 60s --max-error-rate 1% --max-p95-ms 50",
        "umbel models canary digits 4 --steps 5,50,100 --min-jobs 1000 --detach",
        "umbel models canary digits",
        "umbel models canary digits --stop",
    )
    command(app, examples=examples)(canary)


def canary(
    settings: Settings,
    model: Model,
    version: Tried = None,
    *,
    steps: Steps = _STEPS,
    every: Every = None,
    max_error_rate: MaxErrorRate = None,
    max_p95_ms: MaxP95 = None,
    min_jobs: MinJobs = MIN_JOBS,
    warm_timeout: WarmTimeout = None,
    detach: Detach = False,
    stop: Stop = False,
    promote: Promote = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Give a version a few of the jobs, then more, and take them back when it does badly.

    Workers drive it, whichever of them live, so it goes on without this command. That shows each
    step, and ends with 0 if the version was promoted and with 1 if it was rolled back.

    The first step waits until all workers have it loaded and warm.
    """
    _check(version, stop=stop, promote=promote)
    wish: dict[str, Any] = {
        "steps": _percents(steps),
        "every_s": _EVERY_S if every is None else every,
        "max_error_rate": _MAX_ERROR_RATE if max_error_rate is None else max_error_rate,
        "max_p95_ms": max_p95_ms,
        "min_jobs": min_jobs,
        "warm_s": WARM_S if warm_timeout is None else warm_timeout,
    }
    with opened(settings) as client:
        control = TrafficControl(client, settings.namespace)
        if version is None and not stop:
            show(client, control.read(model), settings.namespace, as_json=as_json)
            return
        change = _changed(client, control, model, version, wish, promote=promote, dry_run=dry_run)
        after_change(settings, client, model, dry_run=dry_run)
        if stop or detach or dry_run:
            print_change(change, dry_run=dry_run, as_json=as_json)
        else:
            _end(_follow(client, control, change, as_json=as_json))


def _changed(
    client: redis.Redis,
    control: TrafficControl,
    model: str,
    version: str | None,
    wish: dict[str, Any],
    *,
    promote: bool,
    dry_run: bool,
) -> Change:
    """Begins the canary of a version; without one it stops the canary that is under way."""
    if version is None:
        return canaries.stop(control, model, promote=promote, dry_run=dry_run)
    _require_worker(Fleet(client, control.namespace), control.read(model), version)
    return canaries.begin(control, model, version, **wish, dry_run=dry_run)


def _check(version: str | None, *, stop: bool, promote: bool) -> None:
    if promote and not stop:
        raise typer.BadParameter(
            "--promote belongs to --stop. To give a version all jobs without a canary: "
            "umbel models promote MODEL VERSION"
        )
    if stop and version is not None:
        raise typer.BadParameter("--stop takes the model alone: it has one canary at most.")


def _percents(text: str) -> list[float]:
    try:
        return [float(word.strip().removesuffix("%")) for word in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} are no steps: give percents that rise, as in {_STEPS}."
        ) from None


def _require_worker(fleet: Fleet, standing: Standing, word: str) -> None:
    """Refuses a canary that nobody would load or drive."""
    version = standing.live(word)
    manifest = standing.manifests[version]
    if fleet.readiness(manifest).slots == 0:
        raise NotReady(
            f"No live worker serves queue {manifest.queue}, so nobody could load {standing.model} "
            f"{version} and drive its canary. Start one: umbel worker --queues {manifest.queue}"
        )


def _follow(
    client: redis.Redis, control: TrafficControl, begun: Change, *, as_json: bool
) -> Canary:
    """Tells each change of a canary until it ends, or as JSON how it has ended.

    Returns:
        The canary as it ended.

    Raises:
        RouteInvalid: another canary has taken its place.
        Exit: interrupted; the canary goes on.
    """
    teller = Teller(control, begun)
    try:
        while True:
            standing = control.read(begun.model)
            found = standing.traffic.canary
            if found is None or found.started_ms != begun.at:
                raise RouteInvalid(
                    f"Another canary of {begun.model} has begun. See what became of this one: "
                    f"umbel models history {begun.model}"
                )
            if not as_json:
                teller.tell(standing, found)
            elif not found.under_way:
                print_json(facts(client, standing, control.namespace))
            if not found.under_way:
                return found
            sleep(_PAUSE_S)
    except KeyboardInterrupt:
        errors().print(
            f"\nThe canary goes on. Look: umbel models canary {begun.model}. Stop it: umbel models "
            f"canary {begun.model} --stop",
            soft_wrap=True,
        )
        raise typer.Exit(_INTERRUPTED) from None


def _end(ended: Canary) -> None:
    """Ends the command as the canary ended.

    Raises:
        Exit: not well.
    """
    if ended.state == "promoted" or holds(ended):
        return
    what = "rolled back" if ended.state == "rolled_back" else "stopped"
    line = Text.assemble((f"{what}: ", "bold red"), ended.reason)
    errors().print(line, soft_wrap=True)
    raise typer.Exit(1)
