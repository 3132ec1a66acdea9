"""Payload size: inputs of 100 bytes to 5 megabytes, for a model that does little with them."""

from __future__ import annotations

import numpy as np
import torch

from growth.bench import Bench, Pace
from growth.crew import Task
from growth.values import Curve, Dimension, Sample

SIZES = (100, 1_000, 10_000, 100_000, 1_000_000, 5_000_000)
_KINDS, _FLOAT, _HIGHEST = 16, 4, 8


class Sum(torch.nn.Module):
    """Sum, largest and last number of each row: no part of an input can be missing unnoticed."""

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        """From ``[n, width]`` to ``[n, 3]``."""
        parts = [numbers.sum(dim=1), numbers.amax(dim=1), numbers[:, -1]]
        return torch.stack(parts, dim=1)


def measure(pace: Pace) -> Dimension:
    """Measures it.

    Args:
        pace: how much is measured.
    """
    with Bench(pace) as bench:
        bench.start()
        bench.serve()
        tasks = {size: _task(bench, size) for size in pace.some(SIZES)}

        def point(_: int, task: Task, count: int) -> Sample:
            return bench.sample(task, count)

        curve = Curve("sum", bench.rounds(tasks, point))
        checked = bench.checked
    return Dimension(
        key="payload",
        title="Payload",
        x="bytes of input",
        how="One worker, one producer that calls `map`, batches of up to 64. The model adds up the "
        "float32 numbers of a row; its output is three numbers.",
        latency="of a job at half of that throughput, from when it was due",
        curves=[curve],
        checked=checked,
    )


def _task(bench: Bench, size: int) -> Task:
    """Whole numbers small enough that float32 adds them up exactly, in any order."""
    rng, width = np.random.default_rng(size), size // _FLOAT
    rows = rng.integers(0, _HIGHEST, (_KINDS, width)).astype(np.float32)
    name, net = f"sum-{size}", Sum()
    bench.export(net, rows[0], name)
    with torch.inference_mode():
        answers = net(torch.from_numpy(rows)).numpy()
    return Task.write(bench.folder, name, rows, answers, tolerance=0.0)
