"""Batch size: a model in versions of its own for each ``max_batch_size``, beside plain torch."""

from __future__ import annotations

from growth.bench import Bench, Pace, raw
from growth.crew import Task
from growth.values import Curve, Dimension, Sample

SIZES = (1, 4, 16, 64, 256, 1024)
_RAW_S = 0.25


def measure(pace: Pace) -> Dimension:
    """Measures it.

    Args:
        pace: how much is measured.
    """
    sizes = pace.some(SIZES)
    with Bench(pace) as bench:
        bench.work()
        curves = [_curve(bench, kind, sizes) for kind in ("tiny", "mid")]
        checked = bench.checked
    return Dimension(
        key="batch",
        title="Batch size",
        x="max_batch_size",
        how="One worker, one producer that calls `map`; a model per size, the same weights in all. "
        "Dotted: plain torch, one thread, a loop over batches in memory.",
        latency="of a job at half of that throughput, from when it was due",
        curves=[*curves, *(raw(kind, sizes, _RAW_S) for kind in ("tiny", "mid"))],
        checked=checked,
    )


def _curve(bench: Bench, kind: str, sizes: list[int]) -> Curve:
    tasks = {size: bench.model(f"{kind}-{size}", kind, max_batch_size=size) for size in sizes}

    def point(_: int, task: Task, count: int) -> Sample:
        return bench.sample(task, count)

    return Curve(kind, bench.rounds(tasks, point))
