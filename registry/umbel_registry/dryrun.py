"""Runs a model once before it is registered, and holds what it returns against its signature."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from umbel_config.errors import InvalidInput, ModelError, ModelFolderInvalid
from umbel_registry.collate import collate, cut_back, example_inputs
from umbel_registry.loading import ArrayModel, LoadedModel
from umbel_registry.trials import LENGTHS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

#: One row alone, which models forget to expect, and an odd number.
_SIZES = (1, 3)
#: How torch begins to refuse a batch of one row in BatchNorm that computes statistics of it.
_BATCH_OF_ONE = "Expected more than 1 value per channel when training"


def dry_run(model: LoadedModel) -> None:
    """Runs batches of 1 and 3 rows, at two lengths and with mixed ones where lengths vary.

    Args:
        model: loaded, and not served yet.

    Raises:
        ModelFolderInvalid: it fails, or returns other rows, names, dtypes or shapes than it
            declares; the sentence has the numbers.
    """
    for rows in _batches(model):
        try_rows(model, rows)


def try_rows(model: LoadedModel, rows: list[Any]) -> list[Any]:
    """Runs one batch as a worker does, and checks what it returns.

    Args:
        model: loaded.
        rows: inputs as ``validate_input`` returns them, which stay as they are.

    Returns:
        Outputs by row, as ``validate_output`` returns them.

    Raises:
        ModelFolderInvalid: the model fails, or returns something else than it declares.
    """
    try:
        results = _run(model, rows)
        return [_checked_row(model, place, result) for place, result in enumerate(results)]
    except ModelFolderInvalid:
        raise
    except ModelError as error:
        raise _failed(model, rows, str(error)) from error
    except Exception as error:
        problem = f"{type(error).__name__}: {str(error)[:500]}"
        if _BATCH_OF_ONE in problem:
            problem += (
                ". Likely cause: a module with BatchNorm in training mode; call model.eval() "
                "before it is exported, or where the handler loads it."
            )
        raise _failed(model, rows, problem) from error


def checked_examples(model: LoadedModel) -> list[Any]:
    """The examples of a model, as ``validate_input`` returns them.

    Args:
        model: loaded.

    Raises:
        ModelFolderInvalid: one does not fit the inputs.
    """
    try:
        return [model.signature.validate_input(example) for example in model.manifest.examples]
    except InvalidInput as error:
        raise ModelFolderInvalid(f"An entry of examples does not fit the inputs: {error}") from None


def _batches(model: LoadedModel) -> Iterator[list[Any]]:
    examples = checked_examples(model)
    if examples:
        yield from ([examples[place % len(examples)] for place in range(n)] for n in _SIZES)
        return
    signature = model.signature
    lengths = LENGTHS if signature.variable_inputs else LENGTHS[:1]
    for length in lengths:
        for n in _SIZES:
            yield example_inputs(signature, n, length)
    if signature.variable_inputs:
        yield [row for length in lengths for row in example_inputs(signature, 1, length)]


def _run(model: LoadedModel, rows: list[Any]) -> list[Any]:
    if not isinstance(model, ArrayModel):
        return model.run(copy.deepcopy(rows))  # a handler may write into its inputs
    batch = {
        name: torch.from_numpy(array) for name, array in collate(model.signature, rows).items()
    }
    columns = {name: tensor.cpu().numpy() for name, tensor in model.forward(batch).items()}
    results = [
        cut_back(model.signature, row, dict(zip(columns, values, strict=True)))
        for row, *values in zip(rows, *map(_rows, columns.values()), strict=True)
    ]
    single = len(columns) == 1
    return [next(iter(result.values())) if single else result for result in results]


def _rows(column: np.ndarray[Any, Any]) -> list[Any]:
    return [column[place, ...] for place in range(len(column))]


def _checked_row(model: LoadedModel, place: int, result: Any) -> Any:
    try:
        return model.signature.validate_output(result)
    except InvalidInput as error:
        raise ModelFolderInvalid(
            f"Dry run of {model.manifest.name}: row {place} is not what its outputs say. {error}"
        ) from None


def _failed(model: LoadedModel, rows: list[Any], problem: str) -> ModelFolderInvalid:
    return ModelFolderInvalid(
        f"Dry run of {model.manifest.name} with {len(rows)} made-up rows failed: {problem}"
    )
