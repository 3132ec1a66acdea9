"""LitServe with one worker and batches, as its documentation has it.

Usage: python -m suite.contestants.litserve_server MODEL THREADS PORT
"""

from __future__ import annotations

import sys
from typing import Any

import litserve
import numpy as np
import torch
from numpy.typing import NDArray

from suite.networks import BATCH, WAIT_MS, forward


class Api(litserve.LitAPI):  # type: ignore[misc]
    """Takes the numbers of a row, and gives those of its answer.

    Args:
        model: that answers.
        threads: of torch.
    """

    def __init__(self, model: str, threads: int) -> None:
        super().__init__(max_batch_size=BATCH, batch_timeout=WAIT_MS / 1000)
        self._model, self._threads = model, threads

    def setup(self, device: str) -> None:  # noqa: ARG002  (called by keyword)
        """Prepares the process that runs batches."""
        torch.set_num_threads(self._threads)

    # LitServe takes an annotation here for a schema; without one the body is taken as it is.
    def decode_request(self, request):  # type: ignore[no-untyped-def]
        """One row."""
        return np.asarray(request["row"], dtype=np.float32)

    def batch(self, inputs: list[NDArray[Any]]) -> NDArray[Any]:
        """Stacks rows."""
        return np.stack(inputs)

    def predict(self, x: NDArray[Any]) -> NDArray[Any]:
        """Runs a batch, or a single row."""
        return forward(self._model, x)

    def unbatch(self, output: NDArray[Any]) -> list[NDArray[Any]]:
        """One answer a row."""
        return list(output)

    def encode_response(self, output):  # type: ignore[no-untyped-def]
        """One answer."""
        return {"answer": output.tolist()}


if __name__ == "__main__":
    model, threads, port = sys.argv[1:]
    server = litserve.LitServer(
        Api(model, int(threads)), accelerator="cpu", devices=1, workers_per_device=1
    )
    server.run(
        host="127.0.0.1",
        port=int(port),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
    )
