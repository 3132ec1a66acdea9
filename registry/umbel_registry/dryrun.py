"""Runs a model once before it is registered, and holds what it returns against its signature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from umbel_config.errors import InvalidInput, ModelError, ModelFolderInvalid
from umbel_registry.collate import DEFAULT_LENGTH, collate, example_inputs
from umbel_registry.loading import ArrayModel, LoadedModel

if TYPE_CHECKING:
    from collections.abc import Iterator

#: One row alone, which models forget to expect, and an odd number.
_SIZES = (1, 3)
_OTHER_LENGTH = DEFAULT_LENGTH + 5


def dry_run(model: LoadedModel) -> None:
    """Runs batches of 1 and 3 rows, at two lengths and with mixed ones where lengths vary.

    Args:
        model: loaded, and not served yet.

    Raises:
        ModelFolderInvalid: it fails, or returns other rows, names, dtypes or shapes than it
            declares; the sentence has the numbers.
    """
    for rows in _batches(model):
        try:
            results = _run(model, rows)
            for place, result in enumerate(results):
                _check_row(model, place, result)
        except ModelFolderInvalid:
            raise
        except ModelError as error:
            raise _failed(model, rows, str(error)) from error
        except Exception as error:
            problem = f"{type(error).__name__}: {str(error)[:500]}"
            raise _failed(model, rows, problem) from error


def _batches(model: LoadedModel) -> Iterator[list[Any]]:
    examples = [_checked_example(model, example) for example in model.manifest.examples]
    if examples:
        yield from ([examples[place % len(examples)] for place in range(n)] for n in _SIZES)
        return
    signature = model.signature
    lengths = (DEFAULT_LENGTH, _OTHER_LENGTH) if signature.variable_inputs else (DEFAULT_LENGTH,)
    for length in lengths:
        for n in _SIZES:
            yield example_inputs(signature, n, length)
    if signature.variable_inputs:
        yield [row for length in lengths for row in example_inputs(signature, 1, length)]


def _checked_example(model: LoadedModel, example: Any) -> Any:
    try:
        return model.signature.validate_input(example)
    except InvalidInput as error:
        raise ModelFolderInvalid(f"An entry of examples does not fit the inputs: {error}") from None


def _run(model: LoadedModel, rows: list[Any]) -> list[Any]:
    if not isinstance(model, ArrayModel):
        return model.run(rows)
    batch = {
        name: torch.from_numpy(array) for name, array in collate(model.signature, rows).items()
    }
    columns = {name: tensor.cpu().numpy() for name, tensor in model.forward(batch).items()}
    results = [
        dict(zip(columns, values, strict=True))
        for values in zip(*map(_rows, columns.values()), strict=True)
    ]
    single = len(columns) == 1
    return [next(iter(result.values())) if single else result for result in results]


def _rows(column: np.ndarray[Any, Any]) -> list[Any]:
    return [column[place, ...] for place in range(len(column))]


def _check_row(model: LoadedModel, place: int, result: Any) -> None:
    try:
        model.signature.validate_output(result)
    except InvalidInput as error:
        raise ModelFolderInvalid(
            f"Dry run of {model.manifest.name}: row {place} is not what its outputs say. {error}"
        ) from None


def _failed(model: LoadedModel, rows: list[Any], problem: str) -> ModelFolderInvalid:
    return ModelFolderInvalid(
        f"Dry run of {model.manifest.name} with {len(rows)} made-up rows failed: {problem}"
    )
