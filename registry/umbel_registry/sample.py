"""The example given to ``export_model``: named tensors of one row, and batches made from it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast, get_args

import torch

from umbel_config.errors import ModelFolderInvalid
from umbel_registry.orientation import first_rows
from umbel_registry.signature import ArrayDtype, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One row of input, by name, in the order in which the module takes its arguments.

    Attributes:
        rows: one tensor per input, without the batch dimension.
        variable: axes of a row whose length varies, by input.
        masks: name of the mask argument, by input.
        pad_values: what shorter rows are filled up with, by input.
    """

    rows: Mapping[str, torch.Tensor]
    variable: Mapping[str, Sequence[int]]
    masks: Mapping[str, str]
    pad_values: Mapping[str, float]

    def specs(self) -> dict[str, TensorSpec]:
        """The inputs as the signature describes them."""
        return {
            name: TensorSpec(
                dtype=dtype_name(name, row),
                shape=tuple(
                    -1 if axis in self.variable.get(name, ()) else extent
                    for axis, extent in enumerate(row.shape)
                ),
                mask=self.masks.get(name),
                pad_value=self.pad_values.get(name, 0),
            )
            for name, row in self.rows.items()
        }

    def batch(self, size: int, *, longer: int = 0) -> dict[str, torch.Tensor]:
        """A batch of equal rows, masks last.

        Args:
            size: how many rows.
            longer: by how much variable axes are extended, at most by their length.
        """
        tensors = {name: self._stretched(name, longer) for name in self.rows}
        masks = {
            mask: torch.ones(
                size, *(tensors[name].shape[axis] for axis in self.variable[name]), dtype=torch.bool
            ).to(tensors[name].device)
            for name, mask in self.masks.items()
        }
        batch = {name: torch.stack([tensor] * size) for name, tensor in tensors.items()}
        return batch | masks

    def dynamic_shapes(self) -> tuple[dict[int, Any], ...]:
        """Per argument the axes that ``torch.export`` must keep free, and their names."""
        rows = torch.export.Dim("batch", min=1)
        lengths = {
            name: {axis: torch.export.Dim(f"{name}_{axis}", min=1) for axis in axes}
            for name, axes in self.variable.items()
        }
        inputs = [
            {0: rows} | {axis + 1: length for axis, length in lengths.get(name, {}).items()}
            for name in self.rows
        ]
        masks = [
            {0: rows} | dict(enumerate((lengths[name][axis] for axis in self.variable[name]), 1))
            for name in self.masks
        ]
        return (*inputs, *masks)

    def _stretched(self, name: str, longer: int) -> torch.Tensor:
        row = self.rows[name]
        for axis in self.variable.get(name, ()) if longer else ():
            row = torch.cat([row, row.narrow(axis, 0, longer)], dim=axis)
        return row


def build_sample(
    module: torch.nn.Module,
    example: Any,
    input_names: Sequence[str] | None,
    *,
    batched: bool | None,
    **options: Mapping[str, Any],
) -> Sample:
    """Names and checks the example, and takes one row of it.

    Args:
        module: whose ``forward`` gives the names, where none are given.
        example: an array, tensor or nested list for one input; a tuple or a dict for several;
            one row, or a batch of rows.
        input_names: names of the inputs, for an example that is no dict.
        batched: whether it has a batch dimension; ``None`` finds out, see ``orientation.py``.
        **options: ``variable``, ``masks`` and ``pad_values`` of :class:`Sample`.

    Raises:
        ModelFolderInvalid: names and example do not fit each other.
    """
    device = next((weight.device for weight in module.parameters()), torch.device("cpu"))
    arguments = _argument_names(module)
    if isinstance(example, dict):
        values = example
        if set(example) <= set(arguments):
            values = {name: example[name] for name in arguments if name in example}
    else:
        parts = example if isinstance(example, tuple) else (example,)
        values = _named(parts, input_names or arguments)
    rows = {name: _tensor(name, value, device) for name, value in values.items()}
    if batched:
        rows = {name: _first(name, tensor) for name, tensor in rows.items()}
    elif batched is None and not any(options.values()):
        rows = first_rows(module, rows)
    for given in options.values():
        for name in given:
            if name not in rows:
                raise ModelFolderInvalid(
                    f"There is no input {name!r}; the example has {', '.join(rows)}."
                )
    in_order = {
        option: {name: given[name] for name in rows if name in given}
        for option, given in options.items()
    }
    sample = Sample(rows=rows, **in_order)
    _check_axes(sample)
    return sample


def _argument_names(module: torch.nn.Module) -> list[str]:
    if isinstance(module, torch.jit.ScriptModule):
        schema = cast("Any", module.forward).schema
        return [argument.name for argument in schema.arguments[1:]]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind in kinds]


def _named(parts: tuple[Any, ...], names: Sequence[str]) -> dict[str, Any]:
    if len(names) < len(parts):
        raise ModelFolderInvalid(
            f"The example has {len(parts)} inputs, but only {len(names)} names are known "
            f"({', '.join(names)}). Give input_names, or the example as a dict by name."
        )
    return dict(zip(names, parts, strict=False))


def _tensor(name: str, value: Any, device: torch.device) -> torch.Tensor:
    try:
        return torch.as_tensor(value).detach().clone().to(device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelFolderInvalid(
            f"The example of input {name!r} cannot be made a tensor: {error}"
        ) from error


def _first(name: str, batch: torch.Tensor) -> torch.Tensor:
    if not batch.ndim or not len(batch):
        raise ModelFolderInvalid(f"The example of input {name!r} is no batch: it has no rows.")
    return batch[0]


def _check_axes(sample: Sample) -> None:
    for name, axes in sample.variable.items():
        shape = sample.rows[name].shape
        for axis in axes:
            if not 0 <= axis < len(shape) or shape[axis] < 2:  # noqa: PLR2004  (torch.export fixes 1)
                raise ModelFolderInvalid(
                    f"Axis {axis} of input {name!r} is to be variable: the example, of shape "
                    f"{list(shape)}, must have that axis, with an extent of at least 2."
                )
    for name in sample.masks:
        if not sample.variable.get(name):
            raise ModelFolderInvalid(f"A mask for {name!r} needs a variable axis: variable={{...}}")


def dtype_name(name: str, tensor: torch.Tensor) -> Any:
    """NumPy's name of a tensor's dtype.

    Args:
        name: of the input or output, for the error.
        tensor: whose dtype it is.

    Raises:
        ModelFolderInvalid: NumPy has no such dtype.
    """
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in get_args(ArrayDtype):
        raise ModelFolderInvalid(
            f"{name!r} has dtype {dtype}, which NumPy does not know; convert it inside the model, "
            "for example with .float()."
        )
    return dtype
