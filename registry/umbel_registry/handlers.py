"""What a handler returned, cut into one value per row."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from umbel_config.errors import ModelLoadFailed


def split_rows(outputs: Any, names: tuple[str, ...]) -> list[Any]:
    """Cuts the outputs of a batch into rows.

    Args:
        outputs: a sequence of rows, an array or tensor ``[n, ...]``, or a dict of those by name.
        names: of the model's outputs; one makes bare rows, several make dicts.

    Raises:
        ModelLoadFailed: the outputs have no rows, other names, or columns of different lengths.
    """
    if not isinstance(outputs, dict):
        return _column(outputs)
    if set(outputs) != set(names):
        raise ModelLoadFailed(
            f"The handler returned outputs {', '.join(map(str, outputs))}, "
            f"but its signature names {', '.join(names)}."
        )
    columns = {name: _column(outputs[name]) for name in names}
    if len({len(column) for column in columns.values()}) > 1:
        lengths = ", ".join(f"{name}: {len(column)}" for name, column in columns.items())
        raise ModelLoadFailed(f"The handler's outputs differ in rows ({lengths}).")
    if len(names) == 1:
        return columns[names[0]]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _column(values: Any) -> list[Any]:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    if isinstance(values, np.ndarray) and values.ndim:
        return [values[place, ...] for place in range(len(values))]
    if isinstance(values, (list, tuple)):
        return [
            value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
            for value in values
        ]
    raise ModelLoadFailed(
        f"The handler returned {type(values).__name__}; expected one row per input: a list, "
        "an array or tensor, or a dict of those by output name."
    )
