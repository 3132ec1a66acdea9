"""One run: a stack, a load, the story, and what became of every job."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from faults.processes import Process
from faults.stage import Scale, Stage
from faults.waiting import until

from rollout import pusher, submitter
from rollout.jobs import Jobs
from rollout.story import Event, Pace, Story
from rollout.versions import MODEL, write
from umbel_config.embedded import EmbeddedRedis
from umbel_config.settings import Settings, environment
from umbel_registry import ArtifactStore, Catalog, TrafficControl, push
from umbel_registry.fleet import Fleet, Held
from umbel_registry.promotion import promote

_SCALE = Scale(jobs=0, per_s=0, strikes=0, storm_s=0, pause_ms=0)
#: The stage has its own for faults; here they are as a user gets them.
_AS_DELIVERED = {
    name: Settings.model_fields[name].default
    for name in ("lease_ms", "drain_budget_ms", "torch_threads")
}
#: Longer than any story.
_MOST_S = 600.0


@dataclass(frozen=True, slots=True)
class Run:
    """What was seen.

    Attributes:
        jobs: all of them.
        begin: when the steady phase began, in seconds of the monotonic clock.
        events: what happened.
        loads: how each version was loaded, by version.
        per_s: jobs per second.
        workers: worker processes.
    """

    jobs: Jobs
    begin: float
    events: list[Event]
    loads: dict[int, list[Held]]
    per_s: float
    workers: int


def play(
    per_s: float, workers: int, pace: Pace, say: Callable[[Event], None], keep: Path | None = None
) -> Run:
    """Starts everything, plays the story under load, ends everything.

    Args:
        per_s: jobs per second.
        workers: worker processes.
        pace: how long to look on.
        say: is told each event.
        keep: a folder for the logs of the processes.
    """
    with (
        tempfile.TemporaryDirectory(prefix="umbel-rollout-") as name,
        EmbeddedRedis.start(Path(name)) as server,
        Stage(server.url, _SCALE, **_AS_DELIVERED) as stage,
        ExitStack() as stack,
    ):
        control = TrafficControl(stage.redis, stage.settings.namespace, who="rollout")
        fleet = Fleet(stage.redis, stage.settings.namespace)
        pushers = _prepare(stage, stack, control, pace)
        stage.ensure_workers(workers)
        promote(control, fleet, MODEL, "1")
        file = stage.folder / "jobs.npz"
        load = _start(stage, stack, "rollout.submitter", str(per_s), str(_MOST_S), str(file))
        until(lambda: submitter.BEGUN in load.text(), "the load begins")
        time.sleep(2)
        story = Story(control, fleet, lambda version: _push(pushers[version]), pace, say)
        story.play()
        load.hang_up()
        until(lambda: not load.alive(), "all jobs are over", 120)
        print(load.text())
        if keep is not None:
            for log in stage.folder.glob("*.log"):
                (keep / log.name).write_text(log.read_text())
        return Run(Jobs.load(file), story.begin, story.events, story.loads, per_s, workers)


def _prepare(
    stage: Stage, stack: ExitStack, control: TrafficControl, pace: Pace
) -> dict[int, Process]:
    """Pushes and routes version 1, exports the others and has processes ready to push them."""
    settings = stage.settings
    catalog = Catalog(stage.redis, settings.namespace)
    folders = {version: stage.folder / f"v{version}" for version in range(1, 2 + pace.rounds)}
    for version, folder in folders.items():
        write(version, folder)
    push(folders[1], catalog=catalog, store=ArtifactStore(settings.artifacts))
    control.route(MODEL, {"1": 1})
    found = {
        version: _start(stage, stack, "rollout.pusher", str(folder))
        for version, folder in folders.items()
        if version > 1
    }
    until(lambda: all(pusher.READY in each.text() for each in found.values()), "pushers are ready")
    return found


def _start(stage: Stage, stack: ExitStack, module: str, *words: str) -> Process:
    variables = {**environment(stage.settings), "PYTHONUNBUFFERED": "1"}
    log = stage.folder / f"{module}-{len(list(stage.folder.glob('*.log')))}.log"
    return stack.enter_context(Process(["-m", module, *words], variables, log))


def _push(process: Process) -> None:
    process.hang_up()
    until(lambda: pusher.PUSHED in process.text(), "it is pushed")
