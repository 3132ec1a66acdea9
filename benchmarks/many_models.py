"""Twenty models on one worker that may hold five: right answers, memory, reloads, hits, speed.

Usage: python benchmarks/many_models.py [--models 20] [--held 5] [--accesses 80]

Every model has some 20 MB of weights of its own; every fifth is a torch.export archive, the others
are TorchScript. A client asks one model after the other, at random and then as few are asked often
and many seldom (Zipf), and in the end four clients ask at once. A worker with ``max_loaded_mb`` and
one without are measured in turn. Each answer is compared with that model's own forward, and the
worker's resident memory is read every 10 ms. It ends with an error where an answer is wrong or the
memory was above its bound: what the worker takes beside its models, the budget, one model, a slack.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import forward
from numpy.typing import NDArray

from umbel import Client
from umbel_config.connect import connect
from umbel_config.embedded import EmbeddedRedis
from umbel_config.settings import Settings, load_settings
from umbel_registry import ArtifactStore, Catalog, export_model, push

MB = 2**20
WIDTH, HIDDEN, ROWS = 512, 5120, 8
#: Of one model: its two layers of float32 with their biases.
MODEL_MB = 4 * (2 * WIDTH * HIDDEN + WIDTH + HIDDEN) / MB
#: Room for batches, Python objects and what the allocator keeps.
SLACK_MB = 48.0
CLIENTS = 4
_PAGE = os.sysconf("SC_PAGE_SIZE")
_LOADED = re.compile(r"loaded (\S+)@1 on ")


@dataclass(slots=True)
class Zoo:
    """The models, some rows of input, and what each model makes of them.

    Attributes:
        names: of the models.
        rows: the inputs.
        truth: the right outputs, by name.
    """

    names: list[str]
    rows: NDArray[Any]
    truth: dict[str, NDArray[Any]] = field(default_factory=dict)

    def wrong(self, name: str, outputs: Sequence[Any]) -> int:
        """How many outputs are not those of model ``name``."""
        pairs = zip(outputs, self.truth[name], strict=True)
        return sum(not np.allclose(got, right, atol=1e-3) for got, right in pairs)


@dataclass(slots=True)
class Phase:
    """What was measured of one way of asking.

    Attributes:
        jobs: answered.
        seconds: that took.
        wrong: answers of another model, or of none.
        hits_ms: from submit to claim, of accesses whose model was loaded.
        misses_ms: the same, where it had to be loaded.
        loads: models loaded.
    """

    jobs: int = 0
    seconds: float = 0.0
    wrong: int = 0
    hits_ms: list[float] = field(default_factory=list)
    misses_ms: list[float] = field(default_factory=list)
    loads: int = 0


class Worker:
    """A worker process, its log, and its resident memory.

    Args:
        settings: of the worker.
        log: file for what it says.
    """

    def __init__(self, settings: Settings, log: Path) -> None:
        assert settings.redis_url is not None
        env = {
            "UMBEL_REDIS_URL": settings.redis_url.get_secret_value(),
            "UMBEL_STATE_DIR": str(settings.state_dir),
            "UMBEL_MAX_LOADED_MB": str(settings.max_loaded_mb),
            "UMBEL_LOG_LEVEL": "info",
        }
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "umbel_cli", "worker"],
                env={**os.environ, **env},
                stdout=output,
                stderr=output,
            )
        self._over = threading.Event()
        self.peak_mb, self._thread = 0.0, threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def resident_mb(self) -> float:
        """Resident memory now."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * _PAGE / MB

    def loaded(self) -> list[str]:
        """The models that were loaded so far, one for each time."""
        return _LOADED.findall(self._log.read_text())

    def close(self) -> None:
        """Ends it."""
        self._over.set()
        self._thread.join()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)

    def _sample(self) -> None:
        while not self._over.wait(0.01) and self.process.poll() is None:
            self.peak_mb = max(self.peak_mb, self.resident_mb())


def build(number: int) -> torch.nn.Module:
    """Model ``number``, always with the same weights."""
    torch.manual_seed(number)
    layers = torch.nn.Linear(WIDTH, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, WIDTH)
    return torch.nn.Sequential(*layers).eval()


def push_all(settings: Settings, count: int) -> Zoo:
    """Exports and registers the models; their folders are not kept."""
    rows = np.random.default_rng(0).standard_normal((ROWS, WIDTH)).astype(np.float32)
    zoo = Zoo([f"m{number:02}" for number in range(count)], rows)
    store = ArtifactStore(settings.artifacts)
    with connect(settings) as client:
        catalog = Catalog(client, settings.namespace)
        for number, name in enumerate(zoo.names):
            module = build(number)
            with tempfile.TemporaryDirectory(prefix="umbel-model-") as folder:
                export_model(
                    module,
                    torch.zeros(WIDTH),
                    folder,
                    name=name,
                    format="torchscript" if number % 5 else "torch_export",
                    batching={"max_batch_size": 32, "max_wait_ms": 2},
                )
                push(folder, catalog=catalog, store=store)
            zoo.truth[name] = forward(module, rows)
    return zoo


def ask(client: Client, zoo: Zoo, name: str, phase: Phase) -> float:
    """Has model ``name`` answer all rows; returns ms from submit to claim of the first."""
    jobs = client.submit_many(name, zoo.rows)
    phase.wrong += zoo.wrong(name, [job.result(timeout=60) for job in jobs])
    phase.jobs += len(jobs)
    return float(jobs[0].info().wait_ms or 0)


def in_turn(worker: Worker, client: Client, zoo: Zoo, order: Sequence[str]) -> Phase:
    """One access after the other."""
    phase, began = Phase(), time.perf_counter()
    before = len(worker.loaded())
    for name in order:
        waited = ask(client, zoo, name, phase)
        loads = len(worker.loaded())
        (phase.misses_ms if loads > before else phase.hits_ms).append(waited)
        phase.loads += loads - before
        before = loads
    phase.seconds = time.perf_counter() - began
    return phase


def at_once(worker: Worker, client: Client, zoo: Zoo, order: Sequence[str]) -> Phase:
    """Several accesses side by side."""
    phases = [Phase() for _ in range(CLIENTS)]
    before, began = len(worker.loaded()), time.perf_counter()

    def run(place: int) -> None:
        for name in order[place::CLIENTS]:
            ask(client, zoo, name, phases[place])

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(run, range(CLIENTS)))
    seconds, loads = time.perf_counter() - began, len(worker.loaded()) - before
    jobs, wrong = sum(each.jobs for each in phases), sum(each.wrong for each in phases)
    return Phase(jobs=jobs, seconds=seconds, wrong=wrong, loads=loads)


def orders(zoo: Zoo, count: int) -> dict[str, list[str]]:
    """Which models are asked, by the name of the phase; the same for every worker."""
    rng = np.random.default_rng(7)
    shuffled = rng.permutation(zoo.names)
    weights = 1 / np.arange(1, len(zoo.names) + 1) ** 1.1
    uniform = [str(name) for name in rng.choice(zoo.names, count)]
    zipf = [str(name) for name in rng.choice(shuffled, 2 * count, p=weights / weights.sum())]
    return {"random": uniform, "Zipf": zipf, f"{CLIENTS} at once": zipf[::-1]}


@contextmanager
def working(settings: Settings, log: Path) -> Iterator[Worker]:
    """A worker, while the block runs."""
    worker = Worker(settings, log)
    try:
        yield worker
    finally:
        worker.close()


def measure(settings: Settings, log: Path, zoo: Zoo, count: int) -> bool:
    """Measures one worker and prints what came of it; returns whether all was well."""
    budget = settings.max_loaded_mb
    print(f"\n{f'max_loaded_mb {budget}' if budget else 'without a budget'}")
    with working(settings, log) as worker, Client(settings=settings) as client:
        first = Phase()
        for name in (zoo.names[0], zoo.names[1]):  # one of each format, with its libraries
            ask(client, zoo, name, first)
        beside = worker.resident_mb() - 2 * MODEL_MB
        phases = {}
        for name, order in orders(zoo, count).items():
            run: Callable[..., Phase] = at_once if "at once" in name else in_turn
            phases[name] = run(worker, client, zoo, order)
            report(name, phases[name], len(order))
        peak = worker.peak_mb
    wrong = first.wrong + sum(phase.wrong for phase in phases.values())
    held = budget or len(zoo.names) * MODEL_MB
    bound = beside + held + MODEL_MB + SLACK_MB
    print(
        f"  memory at most {peak:,.0f} MB; the bound is {bound:,.0f} = {beside:,.0f} beside models "
        f"+ {held:,.0f} + {MODEL_MB:.0f} one model + {SLACK_MB:.0f} slack"
    )
    print(f"  wrong answers: {wrong} of {sum(phase.jobs for phase in phases.values()):,}")
    return not wrong and (peak <= bound or not budget)


def report(name: str, phase: Phase, accesses: int) -> None:
    """Prints one line."""
    line = f"  {name:10} {phase.jobs / phase.seconds:7,.0f} jobs/s"
    line += f"  hit rate {1 - phase.loads / accesses:4.0%}  loads {phase.loads:4}"
    for kind, times in (("loaded", phase.hits_ms), ("to load", phase.misses_ms)):
        if len(times) > 1:
            late = statistics.quantiles(times, n=20)[-1]
            line += f"  {kind}: p50 {statistics.median(times):.0f} p95 {late:.0f} ms"
    print(line, flush=True)


def main() -> int:
    """Measures both workers."""
    parser = argparse.ArgumentParser(description="Many models on one worker.")
    parser.add_argument("--models", type=int, default=20, help="how many there are")
    parser.add_argument("--held", type=int, default=5, help="how many of them the budget is for")
    parser.add_argument("--accesses", type=int, default=80, help="in the random phase")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="umbel-bench-") as folder:
        state = Path(folder)
        with EmbeddedRedis.start(state) as server:
            settings = load_settings(redis_url=server.url, state_dir=state)
            began = time.perf_counter()
            zoo = push_all(settings, args.models)
            took = time.perf_counter() - began
            print(f"{args.models} models of {MODEL_MB:.1f} MB pushed in {took:.0f} s")
            print("times: submit to claim, by whether the model was loaded or had to be")
            budget = round(args.held * (MODEL_MB + 1))
            good = [
                measure(
                    settings.model_copy(update={"max_loaded_mb": bound}),
                    *(state / f"worker-{bound}.log", zoo, args.accesses),
                )
                for bound in (budget, 0)
            ]
    print("\nall is well" if all(good) else "\nNOT WELL: see above")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
