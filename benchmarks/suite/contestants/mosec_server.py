"""mosec with one worker, dynamic batches and MessagePack, its fastest way of speaking.

Usage: python -m suite.contestants.mosec_server MODEL THREADS --address … --port …
"""

from __future__ import annotations

import os
import sys

import numpy as np
import torch
from mosec import Server, Worker
from mosec.mixin import TypedMsgPackMixin

from suite.networks import BATCH, SHAPES, WAIT_MS, forward

_MODEL, _THREADS = "BENCH_MODEL", "BENCH_THREADS"


class Predict(TypedMsgPackMixin, Worker):  # type: ignore[misc]
    """Takes the bytes of a row, and gives those of its answer."""

    def __init__(self) -> None:
        super().__init__()
        torch.set_num_threads(int(os.environ[_THREADS]))
        self._model = os.environ[_MODEL]

    def forward(self, data: list[bytes]) -> list[bytes]:
        """Runs a batch."""
        flat = np.frombuffer(bytearray().join(data), np.float32)
        rows = flat.reshape(len(data), *SHAPES[self._model])
        return [answer.tobytes() for answer in forward(self._model, rows)]


if __name__ == "__main__":
    os.environ[_MODEL], os.environ[_THREADS] = sys.argv.pop(1), sys.argv.pop(1)
    server = Server()
    server.append_worker(Predict, num=1, max_batch_size=BATCH, max_wait_time=WAIT_MS, timeout=30)
    server.run()
