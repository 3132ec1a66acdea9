"""The MiniLM handler without its own sorting: a batch is as wide as the longest text in it."""

from __future__ import annotations

from pathlib import Path

from umbel_examples.minilm import MiniLM
from umbel_examples.parts import as_they_come


class Whole(MiniLM):
    """Runs a batch in one part, as a model of arrays does, so that padding is up to umbel.

    Args:
        folder: the model's files.
        device: as for ``MiniLM``.
    """

    def __init__(self, folder: Path, device: str) -> None:
        super().__init__(folder, device, plan=as_they_come)
