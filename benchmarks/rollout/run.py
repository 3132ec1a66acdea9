"""One run: a stack and a load are started, the story is played, and everything is ended again."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from faults.processes import Process
from faults.stage import Scale, Stage
from faults.waiting import NeverHappened, until

from rollout.company import Company, Span
from rollout.jobs import Jobs
from rollout.protocol import BEGUN, PUSHED, READY
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
#: Seconds after which the load ends whatever happens, that a push may take on a busy machine, that
#: are left out before anything counts, and for the last results and their stories.
_MOST_S, _PUSH_S, _SETTLE_S, _REST_S = 900.0, 180.0, 3.0, 120.0


@dataclass(frozen=True, slots=True)
class Run:
    """What was seen.

    Attributes:
        jobs: all of them.
        begin: when the steady phase began, in seconds of the monotonic clock.
        end: when the story was over.
        events: what happened.
        loads: how each version was loaded, by version.
        per_s: jobs per second.
        company: what other programs used meanwhile, as far as it is known.
    """

    jobs: Jobs
    begin: float
    end: float
    events: list[Event]
    loads: dict[int, list[Held]]
    per_s: float
    company: list[Span]


def play(per_s: float, pace: Pace, say: Callable[[Event], None]) -> Run:
    """Starts everything, plays the story under load, ends everything.

    Args:
        per_s: jobs per second.
        pace: how long to look on.
        say: is told each event.

    Raises:
        NeverHappened: something did not come about in time.
    """
    with (
        tempfile.TemporaryDirectory(prefix="umbel-rollout-") as name,
        EmbeddedRedis.start(Path(name)) as server,
        Stage(server.url, _SCALE, **_AS_DELIVERED) as stage,
        ExitStack() as stack,
    ):
        return _Play(stage, stack, per_s, pace, say).go()


class _Play:
    """See ``play``.

    Args:
        stage: where it plays.
        stack: closes what is started here.
        per_s: jobs per second.
        pace: how long to look on.
        say: is told each event.
    """

    def __init__(
        self,
        stage: Stage,
        stack: ExitStack,
        per_s: float,
        pace: Pace,
        say: Callable[[Event], None],
    ) -> None:
        self._stage, self._stack = stage, stack
        self._per_s, self._pace, self._say = per_s, pace, say
        namespace = stage.settings.namespace
        self._control = TrafficControl(stage.redis, namespace, who="rollout")
        self._fleet = Fleet(stage.redis, namespace)
        self._pushers: dict[int, Process] = {}

    def go(self) -> Run:
        """Plays it."""
        self._prepare()
        self._stage.ensure_workers(1)
        promote(self._control, self._fleet, MODEL, "1")
        file = self._stage.folder / "jobs.npz"
        load = self._start("submitter", str(self._per_s), str(_MOST_S), str(file))
        _await_word(load, BEGUN, 60.0)
        time.sleep(_SETTLE_S)
        story = Story(self._control, self._fleet, self._push, self._pace, self._say)
        with Company() as company:
            story.play()
        end = time.monotonic()
        load.hang_up()
        until(lambda: not load.alive(), "all jobs are over", _REST_S)
        if not file.exists():
            raise NeverHappened(f"the load broke off: {load.text()[-1000:]}")
        return Run(
            jobs=Jobs.load(file),
            begin=story.begin,
            end=end,
            events=story.events,
            loads=story.loads,
            per_s=self._per_s,
            company=company.spans(),
        )

    def _prepare(self) -> None:
        """Pushes and routes version 1, exports the others, and has them ready to be pushed."""
        settings = self._stage.settings
        catalog = Catalog(self._stage.redis, settings.namespace)
        first = write(1, self._stage.folder / "v1")
        push(first, catalog=catalog, store=ArtifactStore(settings.artifacts))
        self._control.route(MODEL, {"1": 1})
        for version in range(2, 2 + self._pace.rounds):
            folder = write(version, self._stage.folder / f"v{version}")
            self._pushers[version] = self._start("pusher", str(folder))
        for process in self._pushers.values():
            _await_word(process, READY, 60.0)

    def _push(self, version: int) -> None:
        process = self._pushers[version]
        process.hang_up()
        _await_word(process, PUSHED, _PUSH_S)

    def _start(self, module: str, *words: str) -> Process:
        """Starts a module of this package; it ends with the run."""
        variables = {**environment(self._stage.settings), "PYTHONUNBUFFERED": "1"}
        number = len(list(self._stage.folder.glob(f"{module}-*")))
        log = self._stage.folder / f"{module}-{number}.log"
        process = Process(["-m", f"rollout.{module}", *words], variables, log)
        return self._stack.enter_context(process)


def _await_word(process: Process, word: str, timeout_s: float) -> None:
    """Waits until a process has printed a word.

    Raises:
        NeverHappened: it did not, or has ended.
    """
    until(
        lambda: word in process.text() or not process.alive(), f"a process says {word}", timeout_s
    )
    if word not in process.text():
        raise NeverHappened(f"a process ended before it said {word}: {process.text()[-1000:]}")
