"""Batch size: a model in versions of its own for each ``max_batch_size``, beside plain torch."""

from __future__ import annotations

import time

import torch
from models import build, forward, inputs

from growth.bench import Bench, Pace
from growth.crew import Task
from growth.values import Curve, Dimension, Point, Sample

SIZES = (1, 4, 16, 64, 256, 1024)
#: Seconds of plain torch in each round.
_RAW_S = 0.1


def measure(pace: Pace) -> Dimension:
    """Measures it.

    Args:
        pace: how much is measured.
    """
    sizes = pace.some(SIZES)
    with Bench(pace) as bench:
        bench.start()
        bench.serve()
        pairs = [_curves(bench, kind, sizes) for kind in ("tiny", "mid")]
        checked = bench.checked
    return Dimension(
        key="batch",
        title="Batch size",
        x="max_batch_size",
        how="One worker, one producer that calls `map`; a model per size, the same weights in all. "
        "Dotted: plain torch, one thread, a loop over batches in memory.",
        latency="of a job at half of that throughput, from when it was due",
        curves=[umbel for umbel, _ in pairs] + [limit for _, limit in pairs],
        checked=checked,
    )


def _curves(bench: Bench, kind: str, sizes: list[int]) -> tuple[Curve, Curve]:
    """Of umbel, and of plain torch, measured in the same rounds."""
    tasks = {size: bench.model(f"{kind}-{size}", kind, max_batch_size=size) for size in sizes}
    limits = {size: Point(size) for size in sizes}

    def point(size: int, task: Task, count: int) -> Sample:
        limits[size].samples.append(Sample(jobs_per_s=plain_torch(kind, size, _RAW_S)))
        return bench.sample(task, count)

    curve = Curve(kind, bench.rounds(tasks, point))
    return curve, Curve(f"{kind}, plain torch", list(limits.values()))


def plain_torch(kind: str, size: int, seconds: float) -> float:
    """Rows per second of plain torch with one thread, which is the limit.

    Args:
        kind: ``tiny`` or ``mid``.
        size: of a batch.
        seconds: to measure for.
    """
    torch.set_num_threads(1)
    net, rows = build(kind), inputs(kind, size)
    forward(net, rows)
    done, begin = 0, time.monotonic()
    while (took := time.monotonic() - begin) < seconds:
        forward(net, rows)
        done += size
    return done / took
