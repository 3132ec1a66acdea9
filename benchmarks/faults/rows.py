"""Rows to submit, the answers that plain torch gives for them, and what workers noted of them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from umbel_config.connect import connect
from umbel_config.settings import Settings

#: As in ``model.py``, which is not imported here: a producer needs no torch.
REAL, PER_UNIT = 64.0, 1024.0
MODULE = "faults.model"
#: The answer to a row may differ that much between batch sizes.
TOLERANCE = 1e-4
BATCH = 64


def rows_of(numbers: Sequence[int]) -> NDArray[np.float32]:
    """The rows ``[n, 10]`` with these numbers; equal numbers give equal rows.

    Args:
        numbers: below 100,000, so that float32 holds them exactly.
    """
    made = np.stack([_noise(number) for number in numbers])
    made[:, 0] = REAL + np.asarray(numbers) / PER_UNIT
    return made


def _noise(number: int) -> NDArray[np.float32]:
    dice = random.Random(number)
    return np.array([dice.uniform(-1, 1) for _ in range(10)], dtype=np.float32)


def answers(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """What plain torch makes of rows ``[n, 10]``, as ``[n, 1]``."""
    import torch  # noqa: PLC0415  (see above)

    with torch.inference_mode():
        outputs: NDArray[np.float32] = _network()(torch.from_numpy(rows)).numpy()
    return outputs


@cache
def _network() -> Any:
    from models import build  # noqa: PLC0415  (it loads torch)

    return build("tiny")


def push_model(settings: Settings, name: str, folder: Path, **batching: int) -> None:
    """Registers the model under attack as version 1 of ``name``.

    Args:
        settings: with a ``redis_url``.
        name: of the model.
        folder: an empty one to build the model folder in.
        **batching: overrides of its batching policy.
    """
    from safetensors.torch import save_file  # noqa: PLC0415  (it loads torch)

    from faults.model import make  # noqa: PLC0415
    from umbel_registry import ArtifactStore, Catalog, push  # noqa: PLC0415

    save_file(make().state_dict(), folder / "model.safetensors")
    content = {
        "name": name,
        "version": "1",
        "format": "safetensors",
        "weights": "model.safetensors",
        "factory": f"{MODULE}:make",
        "inputs": {"x": {"dtype": "float32", "shape": [10]}},
        "outputs": {"y": {"dtype": "float32", "shape": [1], "allow_nan": False}},
        "batching": {"max_batch_size": BATCH, "max_wait_ms": 5, **batching},
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(content))
    with connect(settings) as client:
        push(
            folder,
            catalog=Catalog(client, settings.namespace),
            store=ArtifactStore(settings.artifacts),
            allowed_modules=(MODULE,),
        )


def forwards(folder: Path) -> list[list[int]]:
    """The numbers of the rows of every forward that any process began.

    Args:
        folder: where the processes left their notes.
    """
    found: list[list[int]] = []
    for file in sorted(folder.iterdir()):
        numbers = np.fromfile(file, dtype=np.int32).tolist()
        at = 0
        while at < len(numbers):
            found.append(numbers[at + 1 : at + 1 + numbers[at]])
            at += 1 + numbers[at]
    return found


def computed(folder: Path) -> Counter[int]:
    """How often each row went into a forward."""
    return Counter(number for rows in forwards(folder) for number in rows)
