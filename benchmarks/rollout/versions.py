"""The versions that are rolled out: the same network with other weights, so answers can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MODEL = "mid"
WIDTH = 512
#: Jobs take these many rows in turn.
ROWS = 256
#: The answer to a row may differ that much between batch sizes.
TOLERANCE = 1e-3
Array = NDArray[np.float32]


def rows() -> Array:
    """The inputs ``[ROWS, WIDTH]``: job n has row ``n % ROWS``. Needs no torch."""
    return np.random.default_rng(0).standard_normal((ROWS, WIDTH)).astype(np.float32)


def network(version: int) -> Any:
    """The network of a version."""
    import torch  # noqa: PLC0415  (the process that submits needs none)
    from models import build  # noqa: PLC0415

    net = build(MODEL)
    torch.manual_seed(version)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn_like(weight) * (2 / max(weight.shape)) ** 0.5)
    return net


def write(version: int, folder: Path) -> Path:
    """Exports a version to a model folder.

    Args:
        version: its number.
        folder: where to.
    """
    from umbel_registry import export_model  # noqa: PLC0415  (it loads torch)

    return export_model(network(version), rows()[0], folder, name=MODEL, version=str(version))


def answers(version: int) -> Array:
    """What plain torch makes of ``rows``, as ``[ROWS, 10]``.

    Args:
        version: its number.
    """
    import torch  # noqa: PLC0415

    with torch.inference_mode():
        outputs: Array = network(version)(torch.from_numpy(rows())).numpy()
    return outputs
