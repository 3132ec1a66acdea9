"""From a checked model folder to something that runs a batch; nothing is ever unpickled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from umbel_config.errors import ModelError, ModelLoadFailed
from umbel_registry.formats.pt2 import load_torch_export
from umbel_registry.formats.script import load_torchscript
from umbel_registry.formats.weights import load_safetensors
from umbel_registry.handlers import split_rows
from umbel_registry.imports import import_allowed
from umbel_registry.manifest import Manifest, ModelFile
from umbel_registry.paths import locate
from umbel_registry.signature import Signature


class WrongRowCount(ModelError):
    """A model returned another number of rows than it was given.

    Attributes:
        expected: rows that went in.
        got: rows that came out.
    """

    def __init__(self, expected: int, got: int) -> None:
        super().__init__(
            f"The model returned {got} rows for a batch of {expected}. Each input row must give "
            "exactly one output row, in the same order."
        )
        self.expected = expected
        self.got = got


class Handler(Protocol):
    """What a handler class must offer; it is made as ``Class(folder: Path, device: str)``.

    ``preprocess(inputs: list) -> Any`` and ``postprocess(outputs) -> rows`` are optional, and so
    not part of this protocol. Rows are a sequence, an array or tensor, or a dict of those by
    output name.
    """

    def forward(self, batch: Any) -> Any:
        """Runs the whole batch.

        Args:
            batch: what ``preprocess`` returned, else the list of inputs.
        """


class ArrayModel:
    """A model that maps a batch of tensors to a batch of tensors.

    Args:
        module: called with the tensors in the order of ``signature.arguments``.
        manifest: describes it.
        device: where its weights are.
    """

    def __init__(
        self, module: Callable[..., Any], manifest: Manifest | ModelFile, device: str
    ) -> None:
        self.manifest = manifest
        self.signature: Signature = manifest.signature
        self.device = device
        self._module = module
        self._arguments = self.signature.arguments
        self._outputs = tuple(self.signature.outputs)
        self._checked = False

    @torch.inference_mode()
    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Runs one batch.

        Args:
            batch: tensors ``[n, *shape]`` by name, masks included, on any device.

        Returns:
            Tensors ``[n, *shape]`` by output name, on the model's device.

        Raises:
            WrongRowCount: an output has other than ``n`` rows.
            ModelLoadFailed: outputs are not what the signature says; checked at the first call.
        """
        tensors = [batch[name].to(self.device, non_blocking=True) for name in self._arguments]
        outputs = self._named(self._module(*tensors))
        if not self._checked:
            self._check(outputs)
            self._checked = True
        expected = len(tensors[0])
        for tensor in outputs.values():
            if len(tensor) != expected:
                raise WrongRowCount(expected, len(tensor))
        return outputs

    def _named(self, outputs: Any) -> dict[str, torch.Tensor]:
        if isinstance(outputs, torch.Tensor):
            outputs = (outputs,)
        if isinstance(outputs, dict):
            if set(outputs) == set(self._outputs):
                return {name: outputs[name] for name in self._outputs}
            got = ", ".join(map(str, outputs))
        elif isinstance(outputs, (tuple, list)):
            if len(outputs) == len(self._outputs):
                return dict(zip(self._outputs, outputs, strict=True))
            got = f"{len(outputs)} unnamed"
        else:
            got = type(outputs).__name__
        raise ModelLoadFailed(
            f"{self.manifest.name} returned other outputs ({got}) than its signature names "
            f"({', '.join(self._outputs)})."
        )

    def _check(self, outputs: dict[str, torch.Tensor]) -> None:
        for name, spec in self.signature.outputs.items():
            tensor = outputs[name]
            if not isinstance(tensor, torch.Tensor):
                raise self._wrong(name, f"{type(tensor).__name__}, not a tensor")
            if str(tensor.dtype) != f"torch.{spec.dtype}":
                raise self._wrong(name, f"dtype {tensor.dtype}, declared is {spec.dtype}")
            shape = list(tensor.shape)
            if len(shape) != len(spec.shape) + 1 or any(
                want not in {-1, got} for want, got in zip(spec.shape, shape[1:], strict=True)
            ):
                raise self._wrong(name, f"shape {shape}, declared is [n, *{list(spec.shape)}]")

    def _wrong(self, name: str, problem: str) -> ModelLoadFailed:
        return ModelLoadFailed(f"{self.manifest.name} returned output {name!r} with {problem}.")


class HandlerModel:
    """A model written as a Python class, which gets the rows of a batch and returns rows.

    Args:
        handler: an instance of the handler class.
        manifest: describes it.
        device: where it was told to run.
    """

    def __init__(self, handler: Handler, manifest: Manifest | ModelFile, device: str) -> None:
        self.manifest = manifest
        self.signature: Signature = manifest.signature
        self.device = device
        self._forward = handler.forward
        self._before: Callable[[list[Any]], Any] = getattr(handler, "preprocess", _same)
        self._after: Callable[[Any], Any] = getattr(handler, "postprocess", _same)

    @torch.inference_mode()
    def run(self, rows: Sequence[Any]) -> list[Any]:
        """Runs one batch.

        Args:
            rows: inputs as ``validate_input`` returns them.

        Returns:
            One value per row; a dict by name where the model has several outputs.

        Raises:
            WrongRowCount: the handler returned another number of rows.
            ModelLoadFailed: it returned something that has no rows.
        """
        outputs = self._after(self._forward(self._before(list(rows))))
        results = split_rows(outputs, tuple(self.signature.outputs))
        if len(results) != len(rows):
            raise WrongRowCount(len(rows), len(results))
        return results


LoadedModel = ArrayModel | HandlerModel


def _same(value: Any) -> Any:
    return value


def load_model(
    folder: Path | str,
    manifest: Manifest | ModelFile,
    device: str = "cpu",
    allowed_modules: Iterable[str] = (),
) -> LoadedModel:
    """Loads a model, in evaluation mode, ready to run batches.

    Args:
        folder: where its files are; checked by SHA-256 before, see ``ArtifactStore.fetch``.
        manifest: what it is; a ``ModelFile`` for a folder that is not pushed yet.
        device: ``cpu``, ``cuda`` or ``cuda:0``.
        allowed_modules: modules that factories and handlers may come from.

    Raises:
        ModelLoadFailed: a file is damaged or of another format, or a module is not allowed.
        ModelFolderInvalid: the weights are not in the folder.
    """
    folder = Path(folder)
    if manifest.format == "handler":
        return _load_handler(folder, manifest, device, allowed_modules)
    path = locate(folder, manifest.weights or "")
    if manifest.format == "torchscript":
        module = load_torchscript(path, device)
    elif manifest.format == "safetensors":
        module = load_safetensors(path, manifest.factory or "", device, allowed_modules)
    else:
        module = load_torch_export(path, device)
    return ArrayModel(module, manifest, device)


def _load_handler(
    folder: Path, manifest: Manifest | ModelFile, device: str, allowed_modules: Iterable[str]
) -> HandlerModel:
    reference = manifest.handler or ""
    make = import_allowed(reference, allowed_modules)
    try:
        handler = make(folder, device)
    except Exception as error:
        raise ModelLoadFailed(
            f"Handler {reference} cannot be made as {reference.partition(':')[2]}(folder, device): "
            f"{type(error).__name__}: {error}"
        ) from error
    if not callable(getattr(handler, "forward", None)):
        raise ModelLoadFailed(f"Handler {reference} has no method forward(batch).")
    return HandlerModel(handler, manifest, device)
