"""Where scenarios play: a store, a client, worker and flusher processes, and a folder of notes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import SecretStr

from faults.closing import Closing
from faults.model import NOTES, PAUSE_MS
from faults.processes import Process
from faults.rows import MODULE, push_model
from faults.trial import Trial
from faults.waiting import until
from umbel import Client
from umbel_batching.census import workers_of
from umbel_config.connect import connect
from umbel_config.settings import Settings, environment, load_settings

NAMESPACE = "faults"
LEASE_MS = 2000


@dataclass(frozen=True, slots=True)
class Scale:
    """How much a scenario does.

    Attributes:
        jobs: in a load that is submitted at once.
        per_s: jobs per second of a load that flows.
        strikes: how often a fault strikes.
        storm_s: seconds that the storm of kills lasts.
        pause_ms: milliseconds that each forward takes longer.
    """

    jobs: int
    per_s: float
    strikes: int
    storm_s: float
    pause_ms: int = 30


FULL = Scale(jobs=6000, per_s=250, strikes=5, storm_s=60)
QUICK = Scale(jobs=600, per_s=250, strikes=1, storm_s=4)


class Stage(Closing):
    """Everything that the scenarios of one family share.

    Args:
        url: of the Redis that workers and clients use.
        scale: how much to do.
        store_url: of the same Redis for whoever only watches; default: ``url``.
        **overrides: settings of workers, flushers and clients.

    Attributes:
        settings: of workers, flushers and clients.
        store_settings: of whoever only watches.
        numbers: row numbers, each handed out once.
        notes: folder in which workers note what they compute.
    """

    def __init__(
        self, url: str, scale: Scale, *, store_url: str | None = None, **overrides: Any
    ) -> None:
        self._stack = ExitStack()
        self.folder = Path(self._stack.enter_context(TemporaryDirectory(prefix="umbel-faults-")))
        self.scale = scale
        self.notes = self.folder / "notes"
        self.notes.mkdir()
        given: dict[str, Any] = {"lease_ms": LEASE_MS, "drain_budget_ms": 300, "torch_threads": 1}
        given |= {"allowed_modules": (MODULE,), "state_dir": self.folder / "state"}
        self.settings: Settings = load_settings(
            redis_url=url, namespace=NAMESPACE, **(given | overrides)
        )
        direct = SecretStr(store_url or url)
        self.store_settings = self.settings.model_copy(update={"redis_url": direct})
        self.numbers: Iterator[int] = count()
        self.workers: list[Process] = []
        self.redis = self._stack.enter_context(connect(self.store_settings))
        self.client = self._stack.enter_context(Client(settings=self.settings))
        self._logs = count()

    def trial(self, name: str, title: str, **batching: int) -> Trial:
        """Registers a model for a scenario, and begins to watch its lane.

        Args:
            name: of the scenario.
            title: the fault in words.
            **batching: overrides of the model's batching policy.
        """
        folder = self.folder / f"model-{name}"
        folder.mkdir()
        push_model(self.store_settings, name, folder, **batching)
        trial = Trial(self, name, title)
        self._stack.callback(trial.witness.close)
        return trial

    def ensure_workers(self, wanted: int, **options: Any) -> list[Process]:
        """Starts workers until ``wanted`` live, and waits until all of them serve."""
        self.workers = [worker for worker in self.workers if worker.alive()]
        while len(self.workers) < wanted:
            self.start_worker(**options)
        until(lambda: self.serving() >= {worker.pid for worker in self.workers}, "workers serve")
        return self.workers[:wanted]

    def start_worker(self, *, paths: Sequence[Path] = (), **overrides: Any) -> Process:
        """Starts a worker, and does not wait for it.

        Args:
            paths: folders that it finds packages in before all others.
            **overrides: of its settings.
        """
        worker = self.start("worker", paths=paths, **overrides)
        self.workers.append(worker)
        return worker

    def start(self, command: str, *, paths: Sequence[Path] = (), **overrides: Any) -> Process:
        """Starts an `umbel` command; it ends with the stage."""
        settings = self.settings.model_copy(update=overrides)
        words = ["-m", "umbel_cli", command, "--stop-with-parent"]
        log = self.folder / f"{command}-{next(self._logs)}.log"
        return self._stack.enter_context(Process(words, self._variables(settings), log, paths))

    def start_producer(self, *words: str, paths: Sequence[Path] = ()) -> Process:
        """Starts a client process, see ``producer.py``; it ends with the stage."""
        log = self.folder / f"producer-{next(self._logs)}.log"
        arguments = ["-m", "faults.producer", *words]
        variables = self._variables(self.settings)
        return self._stack.enter_context(Process(arguments, variables, log, paths))

    def serving(self) -> set[int]:
        """The process ids of the workers that say they serve."""
        seconds, micros = self.redis.time()
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        queue = self.settings.queues[0]
        known = workers_of(self.redis, self.settings.namespace, queue, now_ms)
        return {int(name.rpartition(":")[2]) for name in known}

    def close(self) -> None:
        """Ends all processes and removes the folder."""
        self._stack.close()

    def _variables(self, settings: Settings) -> dict[str, str]:
        own = {NOTES: str(self.notes), PAUSE_MS: str(self.scale.pause_ms)}
        return {**environment(settings), **own, "PYTHONUNBUFFERED": "1"}
