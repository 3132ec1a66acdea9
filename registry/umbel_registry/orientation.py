"""Whether an example is one row or a batch: people give ``export_model`` either."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

#: A batch size that no example and no model is likely to have by itself.
_SIZE = 5


def first_rows(
    module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """One row of each input, whether the example was one row or a batch of them.

    Both readings are tried: the example is repeated along a new first axis, and along its own.
    What runs with as many rows out as in, is right. Where both run, as for a module of linear
    layers alone, an example with two axes or more is a batch, for that is what such a module is
    usually called with; one with a single axis is a row.

    Args:
        module: in evaluation mode.
        tensors: the example, by input, in the order of the module's arguments.
    """
    batches = {name: tensor[:1] for name, tensor in tensors.items() if tensor.ndim}
    if len(batches) < len(tensors) or len({len(tensor) for tensor in tensors.values()}) > 1:
        return dict(tensors)
    if not _runs(module, [torch.cat([one] * _SIZE) for one in batches.values()]):
        return dict(tensors)
    as_rows = _runs(module, [torch.stack([tensor] * _SIZE) for tensor in tensors.values()])
    if as_rows and all(tensor.ndim == 1 for tensor in tensors.values()):
        return dict(tensors)
    return {name: one[0] for name, one in batches.items()}


def _runs(module: torch.nn.Module, arguments: list[torch.Tensor]) -> bool:
    try:
        outputs: Any = module(*arguments)
    except Exception:  # noqa: BLE001  (a wrong reading fails in whatever way the module fails)
        return False
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    if isinstance(outputs, torch.Tensor):
        outputs = [outputs]
    return bool(outputs) and all(
        isinstance(output, torch.Tensor) and output.ndim and len(output) == _SIZE
        for output in outputs
    )
