"""The networks that are measured, their rows and what they make of them; alike in every process."""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

import numpy as np
import torch
from models import WIDTH, build
from models import forward as forward_once
from models import inputs as inputs_once
from numpy.typing import NDArray

#: Rows that one forward runs together, in every contestant that has batches, and ms it may wait.
BATCH, WAIT_MS = 64, 5
#: The shape of one row, by network.
SHAPES: dict[str, tuple[int, ...]] = {name: (width,) for name, width in WIDTH.items()}
SHAPES["image"] = (3, 224, 224)
#: Answers of different batch sizes may differ that much.
TOLERANCE = 1e-4
#: Rows of `image` are taken from so few different ones: more would fill the memory.
_DIFFERENT = 64
Array = NDArray[np.float32]


def row_bytes(name: str) -> int:
    """Bytes of one row."""
    return 4 * prod(SHAPES[name])


def rows(name: str, count: int) -> Array:
    """The first ``count`` rows of a network, ``[count, *shape]``; the same in every process."""
    if name != "image":
        return inputs_once(name, count)
    images = _images()
    return images[np.arange(count) % len(images)]


@cache
def network(name: str) -> torch.nn.Module:
    """A network with the same weights everywhere.

    Args:
        name: ``tiny`` and ``mid`` of ``models.py``, or ``image``: two convolutions.
    """
    if name != "image":
        return build(name)
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, kernel_size=7, stride=4),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 16, kernel_size=3, stride=2),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 10),
    ).eval()


def forward(name: str, batch: Any) -> Array:
    """One forward of a batch ``[n, *shape]``."""
    return forward_once(network(name), batch)


def in_batches(name: str, many: Array) -> Array:
    """The bare loop over batches: the limit of what a worker can reach."""
    parts = (many[at : at + BATCH] for at in range(0, len(many), BATCH))
    return np.concatenate([forward(name, part) for part in parts])


@cache
def _images() -> Array:
    return np.random.default_rng(0).standard_normal((_DIFFERENT, *SHAPES["image"]), np.float32)
