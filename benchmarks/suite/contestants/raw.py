"""Raw torch: a bare loop over batches, without any queue; the limit.

Usage: python -m suite.contestants.raw THREADS
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from numpy.typing import NDArray

from suite.driver import Driver, serve
from suite.networks import in_batches
from suite.sentences import embedded, some


class Raw(Driver):
    """Runs forwards in this process."""

    def rows(self, model: str, count: int) -> Any:
        """Rows of numbers; sentences of the model `minilm`."""
        return some(count) if model == "minilm" else super().rows(model, count)

    def many(self, model: str, rows: Any) -> NDArray[Any]:
        """All rows, in batches."""
        return embedded(rows) if model == "minilm" else in_batches(model, rows)


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    serve(Raw())
