"""The model under attack: the tiny network, which notes each row it gets and fails on demand."""

from __future__ import annotations

import os
import signal
import time
from enum import IntEnum
from functools import cache
from pathlib import Path

import numpy as np
import torch
from models import build

#: Names a folder: every process adds to a file of its own there which rows it computed.
NOTES = "FAULTS_NOTES"
#: Milliseconds that each forward takes longer, so that a fault can strike inside one.
PAUSE_MS = "FAULTS_PAUSE_MS"
#: First value of row 0; smaller ones are made up, by the dry run of a push or to warm up.
REAL, PER_UNIT = 64.0, 1024.0
#: Rows that the device of a `HUNGRY` row has memory for.
MEMORY_ROWS = 24


class Kind(IntEnum):
    """What is wrong with a row; the second value of the row, which is small otherwise."""

    RAISES = 1001
    EXITS = 1002
    SEGFAULTS = 1003
    NAN = 1004
    SHORT = 1005
    HUNGRY = 1006


class Attacked(torch.nn.Module):
    """The network 10-64-1 with the weights of the benchmarks."""

    def __init__(self) -> None:
        super().__init__()
        self.net = build("tiny")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs a batch ``[n, 10]`` to ``[n, 1]``."""
        real = x[:, 0] >= REAL
        if not bool(real.any()):
            return self.net(x)  # type: ignore[no-any-return]
        _note(((x[:, 0] - REAL) * PER_UNIT).round().to(torch.int32).numpy())
        time.sleep(int(os.environ.get(PAUSE_MS, "0")) / 1000)
        _fail(x)
        out: torch.Tensor = self.net(x)
        out[x[:, 1] == Kind.NAN] = torch.nan
        return out[x[:, 1] != Kind.SHORT]


def make() -> Attacked:
    """The factory that workers call."""
    return Attacked()


def _fail(x: torch.Tensor) -> None:
    kinds = {int(kind) for kind in x[:, 1] if kind > Kind.RAISES - 1}
    if Kind.RAISES in kinds:
        raise ValueError("this row cannot be computed")
    if Kind.EXITS in kinds:
        os._exit(7)
    if Kind.SEGFAULTS in kinds:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGSEGV)
    if Kind.HUNGRY in kinds and len(x) > MEMORY_ROWS:
        raise torch.OutOfMemoryError(f"no memory for {len(x)} rows")


def _note(rows: np.ndarray[tuple[int, ...], np.dtype[np.int32]]) -> None:
    """Notes the rows of one forward, in one write: a killed process leaves no half a note."""
    folder = os.environ.get(NOTES)
    if folder:
        os.write(_file(folder), np.append(np.int32(len(rows)), rows).astype(np.int32).tobytes())


@cache
def _file(folder: str) -> int:
    return os.open(Path(folder) / str(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
