"""The reference models of the benchmarks, and their inputs; the same in every contestant."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

#: Width of one input row, by model.
WIDTH = {"tiny": 10, "mid": 512}


def build(name: str) -> torch.nn.Module:
    """The model ``tiny`` (10-64-1) or ``mid`` (512-2048-2048-10), always with the same weights."""
    torch.manual_seed(0)
    widths = {"tiny": (10, 64, 1), "mid": (512, 2048, 2048, 10)}[name]
    layers: list[torch.nn.Module] = []
    for before, after in pairwise(widths):
        layers += [torch.nn.Linear(before, after), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1]).eval()


def inputs(name: str, count: int) -> NDArray[Any]:
    """``count`` rows of float32 input for a model."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((count, WIDTH[name])).astype(np.float32)


@torch.inference_mode()
def forward(model: torch.nn.Module, rows: NDArray[Any]) -> NDArray[Any]:
    """One forward of a batch, from and to NumPy."""
    outputs: torch.Tensor = model(torch.from_numpy(rows))
    return outputs.numpy()
