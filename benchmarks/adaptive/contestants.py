"""The models of the comparison, and the policies that each is run with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from models import WIDTH, build

from umbel_batching.policy import BatchPolicy
from umbel_registry import export_model

#: Milliseconds within which 95 of 100 jobs shall end.
OBJECTIVE_MS: Final = 50
LARGEST: Final = 1024
WAIT_MS: Final = 5
#: Static batch sizes that are tried.
SIZES: Final = (16, 32, 64, 128, 256, 512, 1024)
#: Side of the matrix of the serial part, and how often it is multiplied: some milliseconds.
_SIDE, _TIMES = 256, 16
ADAPTIVE: Final[dict[str, Any]] = {
    "mode": "adaptive",
    "latency_objective_ms": OBJECTIVE_MS,
    "max_batch_size": LARGEST,
    "max_wait_ms": WAIT_MS,
}


def static(size: int) -> dict[str, Any]:
    """The static policy with batches of up to ``size``."""
    return {"mode": "static", "max_batch_size": size, "max_wait_ms": WAIT_MS}


@dataclass(frozen=True, slots=True)
class Contestant:
    """A model.

    Attributes:
        name: as it is registered.
        what: it is, for readers.
        width: of one input row.
    """

    name: str
    what: str
    width: int

    def row(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """One input."""
        return np.random.default_rng(0).standard_normal(self.width).astype(np.float32)

    def write(self, folder: Path) -> Path:
        """Writes its folder, adaptive."""
        module = Serial() if self.name == "serial" else build(self.name)
        policy = BatchPolicy.model_validate(ADAPTIVE)
        return export_model(
            module, np.zeros(self.width, np.float32), folder, name=self.name, batching=policy
        )


class Serial(torch.nn.Module):
    """The tiny network behind a chain of products that no batch can share out."""

    def __init__(self) -> None:
        super().__init__()
        self.net = build("tiny")
        torch.manual_seed(1)
        self.state = torch.nn.Parameter(torch.randn(_SIDE, _SIDE))
        self.step = torch.nn.Parameter(torch.randn(_SIDE, _SIDE) / _SIDE**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs a batch ``[n, 10]`` to ``[n, 1]``."""
        state: torch.Tensor = self.state
        for _ in range(_TIMES):
            state = torch.tanh(state @ self.step)
        out: torch.Tensor = self.net(x)
        return out + state.mean()


CONTESTANTS: Final = (
    Contestant("tiny", "10-64-1: settling costs more than the forward", WIDTH["tiny"]),
    Contestant("mid", "512-2048-2048-10: every job costs", WIDTH["mid"]),
    Contestant("serial", "10-64-1 behind a serial chain: every batch costs", WIDTH["tiny"]),
)
