"""First figures: umbel end to end beside raw torch and plain Celery, interleaved in one run.

Usage: python benchmarks/first_figures.py [--rounds 3] [--jobs 10000]

Everything runs on this machine: an embedded Redis, one umbel worker and one Celery worker with two
processes, each idle while the others are measured. Every answer is compared with a local forward.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import WIDTH, build, forward, inputs
from numpy.typing import NDArray

from umbel import Client
from umbel_config.connect import celery_broker_url, connect
from umbel_config.embedded import EmbeddedRedis
from umbel_config.settings import load_settings
from umbel_registry import ArtifactStore, Catalog, export_model, push
from umbel_worker.runtime import threads_per_batch

HERE = Path(__file__).parent
BATCH = 64
Contestant = Callable[[str, NDArray[Any]], NDArray[Any]]
CELERY_JOBS = {"tiny": 1000, "mid": 600}


@contextmanager
def running(command: list[str], env: dict[str, str]) -> Iterator[None]:
    """Runs a process, silently, while the block runs."""
    process = subprocess.Popen(
        command,
        env={**os.environ, **env},
        cwd=HERE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@cache
def _model(name: str) -> torch.nn.Module:
    torch.set_num_threads(threads_per_batch(load_settings()))
    return build(name)


def raw_torch(name: str, rows: NDArray[Any]) -> NDArray[Any]:
    """The limit: a bare loop over batches with the worker's number of threads."""
    model = _model(name)
    return np.concatenate(
        [forward(model, rows[at : at + BATCH]) for at in range(0, len(rows), BATCH)]
    )


def umbel_bulk(client: Client) -> Contestant:
    """umbel, all rows by ``map``, results in this process's hands."""
    return lambda name, rows: np.stack(list(client.map(name, rows)))


def plain_celery(name: str, rows: NDArray[Any]) -> NDArray[Any]:
    """Plain Celery, one task per row, results fetched from its Redis backend."""
    from plain_celery import predict  # noqa: PLC0415  (it reads the URL from the environment)

    tasks = [predict.delay(name, row.tolist()) for row in rows]
    return np.asarray([task.get(timeout=120) for task in tasks], dtype=np.float32)


def measured(run: Contestant, name: str, count: int) -> float:
    """Rows per second of one contestant; its answers are checked."""
    rows = inputs(name, count)
    started = time.perf_counter()
    outputs = run(name, rows)
    elapsed = time.perf_counter() - started
    np.testing.assert_allclose(outputs, raw_torch(name, rows), atol=1e-4)
    return count / elapsed


def closed_loop(client: Client, count: int) -> float:
    """Median milliseconds from submit to result of one client, one job at a time."""
    times = []
    for row in inputs("tiny", count):
        started = time.perf_counter()
        client.submit("tiny", row).result(timeout=30)
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


def push_models(url: str, state: Path) -> None:
    """Exports and registers both models."""
    settings = load_settings(redis_url=url, state_dir=state)
    catalog = Catalog(connect(settings), settings.namespace)
    for name, width in WIDTH.items():
        folder = state / "models" / name
        example = np.zeros(width, np.float32)
        batching = {"max_batch_size": BATCH, "max_wait_ms": 5}
        export_model(build(name), example, folder, name=name, batching=batching)
        push(folder, catalog=catalog, store=ArtifactStore(settings.artifacts))


def report(figures: dict[tuple[str, str], list[float]]) -> None:
    """Prints medians, ranges and ratios."""
    columns = ("model", "contestant", "median/s", "range", "x Celery", "x raw")
    print("\n{:6} {:14} {:>10} {:>20} {:>9} {:>6}".format(*columns))
    for (name, contestant), values in figures.items():
        median = statistics.median(values)
        celery = statistics.median(figures[name, "plain Celery"])
        raw = statistics.median(figures[name, "raw torch"])
        spread = f"{min(values):,.0f} to {max(values):,.0f}"
        print(
            f"{name:6} {contestant:14} {median:10,.0f} {spread:>20} "
            f"{median / celery:9.1f} {median / raw:6.2f}"
        )


@contextmanager
def contestants(state: Path) -> Iterator[dict[str, Contestant]]:
    """Everybody who takes part, up and warm, while the block runs."""
    with ExitStack() as stack:
        url = stack.enter_context(EmbeddedRedis.start(state)).url
        push_models(url, state)
        broker = celery_broker_url(url)
        env = {"UMBEL_REDIS_URL": url, "UMBEL_STATE_DIR": str(state)}
        env |= {"BENCH_REDIS_URL": broker, "UMBEL_LOG_LEVEL": "warning"}
        os.environ.update(env)
        stack.enter_context(running([sys.executable, "-m", "umbel_cli", "worker"], env))
        celery = [sys.executable, "-m", "celery", "-A", "plain_celery", "worker"]
        celery += ["-Q", "plain", "--concurrency", "2", "--loglevel", "ERROR"]
        stack.enter_context(running(celery, env))
        umbel = umbel_bulk(stack.enter_context(Client(url)))
        for name in WIDTH:
            raw_torch(name, inputs(name, BATCH))
            umbel(name, inputs(name, BATCH))
            plain_celery(name, inputs(name, 8))
        yield {"raw torch": raw_torch, "umbel": umbel, "plain Celery": plain_celery}


def main() -> None:
    """Runs all contestants in turn and prints the table."""
    parser = argparse.ArgumentParser(description="First figures of umbel.")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, interleaved")
    parser.add_argument("--jobs", type=int, default=10_000, help="jobs per round (mid: a quarter)")
    args = parser.parse_args()
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores")
    figures: dict[tuple[str, str], list[float]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="umbel-bench-") as folder,
        contestants(Path(folder)) as everybody,
    ):
        for turn, name in product(range(args.rounds), WIDTH):
            for contestant, run in everybody.items():
                count = args.jobs if name == "tiny" else args.jobs // 4
                count = CELERY_JOBS[name] if contestant == "plain Celery" else count
                speed = measured(run, name, count)
                figures.setdefault((name, contestant), []).append(speed)
                print(f"round {turn + 1}: {name:5} {contestant:13} {speed:10,.0f}/s", flush=True)
        report(figures)
        with Client() as client:
            print(f"\none client, one tiny job at a time: p50 {closed_loop(client, 200):.1f} ms")


if __name__ == "__main__":
    main()
