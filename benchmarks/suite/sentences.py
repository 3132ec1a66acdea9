"""Real English sentences for the model `minilm`: chosen once, then read by every process."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

#: Name the file that they are in, and the folder of the model.
FILE, FOLDER = "BENCH_SENTENCES", "BENCH_MINILM"


def choose(file: Path, count: int) -> None:
    """Writes some sentences from the documentation of installed packages.

    Args:
        file: where to.
        count: how many.
    """
    from minilm import SEED, sentences  # noqa: PLC0415  (it loads torch)

    file.write_text(json.dumps(random.Random(SEED).sample(sentences(), count)), encoding="utf-8")


def some(count: int) -> list[str]:
    """The first sentences of the file.

    Args:
        count: how many, not more than were chosen.
    """
    found: list[str] = json.loads(Path(os.environ[FILE]).read_text(encoding="utf-8"))
    return found[:count]


def embedded(texts: Sequence[str]) -> NDArray[Any]:
    """Vectors of texts, by the model's handler in this process, in batches sorted by length.

    Args:
        texts: any number of them.
    """
    vectors: NDArray[Any] = _local()(texts)
    return vectors


@cache
def _local() -> Any:
    from minilm import BATCH, in_batches  # noqa: PLC0415

    from umbel_examples.minilm import MiniLM  # noqa: PLC0415

    return in_batches(MiniLM(Path(os.environ[FOLDER]), "cpu"), BATCH)
