"""Where one dimension is measured: a Redis, workers and producers of its own, and its rounds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from faults.closing import Closing
from faults.stage import Scale as Faults
from faults.stage import Stage
from faults.waiting import until
from models import build, forward, inputs

from growth.crew import Crew, Outcome, Task
from growth.meter import Meter, spent
from growth.values import Point, Sample, percentiles
from umbel_batching.census import workers_of
from umbel_config.embedded import EmbeddedRedis
from umbel_config.settings import Settings, environment
from umbel_registry import ArtifactStore, Catalog, Manifest, export_model, push

#: The stage has its own for faults; here they are as a user gets them.
_AS_DELIVERED = {
    name: Settings.model_fields[name].default
    for name in ("lease_ms", "drain_budget_ms", "torch_threads", "allowed_modules")
}
_NO_FAULTS = Faults(jobs=0, per_s=0, strikes=0, storm_s=0, pause_ms=0)
#: Rows of input that a load takes in turn; jobs of a first try, and of a load at least and at most.
KINDS, _TRY, _LEAST, _MOST = 1024, 64, 32, 100_000
#: Bytes of inputs of one load at most: a producer has them all in memory.
_MOST_BYTES = 256 * 2**20
#: Part of the throughput at which latency is measured.
HALF = 0.5


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is measured.

    Attributes:
        rounds: samples of each point, interleaved.
        bulk_s: seconds of a load at full speed, about.
        paced_s: seconds of one at half of that.
        quick: whether there are fewer points.
    """

    rounds: int = 3
    bulk_s: float = 0.7
    paced_s: float = 0.5
    quick: bool = False

    def some(self, values: Sequence[int]) -> list[int]:
        """The points: all, or when it has to be quick the first, the middle and the last."""
        if not self.quick or len(values) < 4:
            return list(values)
        return [values[0], values[len(values) // 2], values[-1]]


class Bench(Closing):
    """A Redis with everything around it, as a user gets it.

    Its append-only file is not rewritten meanwhile: that would fall on one point or another.

    Args:
        pace: how much is measured.
        producers: producer processes.
    """

    def __init__(self, pace: Pace, producers: int = 1) -> None:
        self.pace, self.checked = pace, 0
        self._stack = ExitStack()
        try:
            self._start(producers)
        except BaseException:
            self._stack.close()
            raise

    def _start(self, producers: int) -> None:
        enter = self._stack.enter_context
        self.folder = Path(enter(tempfile.TemporaryDirectory(prefix="umbel-growth-")))
        server = enter(EmbeddedRedis.start(self.folder))
        self._workers = dict[int, str]()
        self.stage = enter(Stage(server.url, _NO_FAULTS, **_AS_DELIVERED))
        self.settings = self.stage.settings
        self.redis, namespace = self.stage.redis, self.settings.namespace
        self.redis.config_set("auto-aof-rewrite-percentage", 0)
        self.catalog = Catalog(self.redis, namespace)
        self.store = ArtifactStore(self.settings.artifacts)
        self.crew = enter(Crew(producers, environment(self.settings), self.folder))

    def close(self) -> None:
        """Ends everything and removes its folder."""
        self._stack.close()

    def start(self, queues: Sequence[str] = ("umbel",), **overrides: Any) -> None:
        """Starts a worker; ``serve`` waits for it.

        Args:
            queues: that it serves.
            **overrides: of its settings.
        """
        worker = self.stage.start("worker", queues=tuple(queues), log_level="warning", **overrides)
        self._workers[worker.pid] = queues[0]

    def serve(self) -> None:
        """Waits until all workers serve."""
        until(lambda: self._serving() >= self._workers.keys(), "all workers serve")

    def push(self, folder: Path) -> Manifest:
        """Registers a model folder."""
        return push(folder, catalog=self.catalog, store=self.store)

    def model(
        self,
        name: str,
        kind: str,
        *,
        max_batch_size: int = 64,
        queue: str = "umbel",
        format: Any = "torch_export",  # noqa: A002  (the key of model.yaml)
    ) -> Task:
        """Registers one of the reference models under a name of its own.

        Args:
            name: of the model.
            kind: ``tiny`` or ``mid``.
            max_batch_size: of its policy.
            queue: of its workers.
            format: of its weights.
        """
        net, rows = build(kind), inputs(kind, KINDS)
        given = {"max_batch_size": max_batch_size, "queue": queue, "format": format}
        self.export(net, rows[0], name, **given)
        return Task.write(self.folder, name, rows, forward(net, rows))

    def export(
        self, net: torch.nn.Module, row: Any, name: str, *, max_batch_size: int = 64, **given: Any
    ) -> None:
        """Exports a network and registers it.

        Args:
            net: the network.
            row: an input.
            name: of the model.
            max_batch_size: of its policy.
            **given: to ``export_model``.
        """
        folder = self.folder / "models" / name
        batching = {"max_batch_size": max_batch_size, "max_queue": 10**7}
        export_model(net, row, folder, name=name, batching=batching, **given)
        self.push(folder)

    def rounds(
        self,
        tasks: Mapping[int, Task],
        measure: Callable[[int, Task, int], Sample],
        counts: Mapping[int, int] | None = None,
    ) -> list[Point]:
        """Measures all points in turn, again and again.

        Args:
            tasks: what to ask at each point.
            measure: measures one, with its number of jobs.
            counts: the numbers of jobs; default: so many as take long enough, which is tried out.
        """
        counts = counts or {x: self.calibrated(task) for x, task in tasks.items()}
        points = {x: Point(x) for x in tasks}
        for _ in range(self.pace.rounds):
            for x, task in tasks.items():
                points[x].samples.append(measure(x, task, counts[x]))
        return list(points.values())

    def calibrated(self, task: Task, use: int = 1) -> int:
        """Warms a point up, and finds how many jobs take ``bulk_s`` or so."""
        rate = self.ask("bulk", task, self._bounded(_TRY, task), use=use).per_s
        for share in (0.1, 0.4):
            count = self._bounded(max(_TRY, round(rate * self.pace.bulk_s * share)), task)
            rate = self.ask("bulk", task, count, use=use).per_s
        return self._bounded(max(_LEAST, round(rate * self.pace.bulk_s)), task)

    def _bounded(self, count: int, task: Task) -> int:
        return min(count, _MOST, max(_LEAST, _MOST_BYTES // task.row_bytes))

    def sample(self, task: Task, count: int, use: int = 1) -> Sample:
        """Measures the throughput, and then the latency at half of it.

        Args:
            task: what to ask.
            count: jobs.
            use: producers to use.
        """
        meter = self.meter()
        before = meter.read()
        outcome = self.ask("bulk", task, count, use=use)
        found = {**spent(before, meter.read()), "client_us": outcome.client_us}
        rate = outcome.per_s * HALF
        some = self._bounded(max(_LEAST, round(rate * self.pace.paced_s)), task)
        times = self.ask("paced", task, some, per_s=rate, use=use).times
        return Sample(jobs_per_s=outcome.per_s, **found, **percentiles(times))

    def sample_alone(self, task: Task, count: int, singles: int) -> Sample:
        """Measures the throughput, and then the latency of one job after the other.

        Args:
            task: what to ask.
            count: jobs.
            singles: of them one after the other.
        """
        meter = self.meter()
        before = meter.read()
        outcome = self.ask("bulk", task, count)
        found = {**spent(before, meter.read()), "client_us": outcome.client_us}
        times = self.ask("single", task, singles).times
        return Sample(jobs_per_s=outcome.per_s, **found, **percentiles(times))

    def ask(self, do: str, task: Task, count: int, **more: Any) -> Outcome:
        """As ``Crew.ask``; counts the answers."""
        outcome = self.crew.ask(do, task, count, **more)
        self.checked += outcome.jobs
        return outcome

    def meter(self) -> Meter:
        """Reads what the processes of this bench spend."""
        return Meter(self.redis, self.settings.namespace, list(self._workers))

    def _serving(self) -> set[int]:
        seconds, micros = self.redis.time()
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        namespace, queues = self.settings.namespace, set(self._workers.values())
        known = [workers_of(self.redis, namespace, queue, now_ms) for queue in queues]
        return {int(name.rpartition(":")[2]) for names in known for name in names}
