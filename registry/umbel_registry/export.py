"""Writes a model folder from a live module: exports it, infers the signature, proves the result."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import save_model

from umbel_batching.policy import BatchPolicy
from umbel_config.errors import ModelError, ModelFolderInvalid
from umbel_registry.folder import MODEL_FILE
from umbel_registry.loading import load_model
from umbel_registry.manifest import ModelFile, OutputEncoding, explain
from umbel_registry.sample import Sample, build_sample, dtype_name
from umbel_registry.signature import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from umbel_registry.loading import ArrayModel

ExportFormat = Literal["torch_export", "torchscript", "safetensors"]
_WEIGHTS = {
    "torch_export": "model.pt2",
    "torchscript": "model.pt",
    "safetensors": "model.safetensors",
}
#: Two sizes that differ from each other and from 1, which torch treats as a special case.
_SIZE, _OTHER_SIZE = 2, 3


def export_model(
    module: torch.nn.Module,
    example: Any,
    folder: Path | str,
    *,
    name: str,
    version: str | None = None,
    format: ExportFormat = "torch_export",  # noqa: A002  (the key of model.yaml)
    batching: BatchPolicy | Mapping[str, int | str] | None = None,
    queue: str = "umbel",
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    batched: bool | None = None,
    variable: Mapping[str, Sequence[int]] | None = None,
    masks: Mapping[str, str] | None = None,
    pad_values: Mapping[str, float] | None = None,
    factory: str | None = None,
    description: str = "",
    output_encoding: OutputEncoding = "list",
) -> Path:
    """Writes ``model.yaml`` and the weights of a module, with a free batch dimension.

    The module is run in evaluation mode, and left as it was found. What was written is loaded back
    and compared with the module on a batch of another size.

    Args:
        module: called with one tensor ``[n, ...]`` per input, then with the masks.
        example: one row, or a batch of rows: an array, tensor or nested list; a tuple or a dict by
            name for several inputs. A dict keyed by argument names of ``forward`` may have any
            order.
        folder: where to write; made if missing, files of an earlier export are replaced.
        name: of the model.
        version: default is the next whole number, chosen by ``push``.
        format: how the weights are stored.
        batching: its batching policy.
        queue: the Celery queue of its workers.
        input_names: default is the argument names of ``forward``.
        output_names: default is ``output``, ``output_0`` and so on, or the keys of a dict.
        batched: whether the example has a batch dimension. By default this is found out by
            running the module both ways; with ``variable``, the example is one row.
        variable: axes of a row whose length varies, by input: ``{"tokens": [0]}``.
        masks: by input the name of its mask, an argument after all inputs.
        pad_values: what shorter rows are filled up with, by input; default is 0.
        factory: ``package.module:make``, for format ``safetensors``.
        description: one line for people.
        output_encoding: how arrays are written in JSON, ``list`` or ``base64``.

    Returns:
        The folder, ready for ``push``.

    Raises:
        ModelFolderInvalid: the module cannot be run or exported for batches of any size, or an
            option is wrong.
    """
    folder = Path(folder)
    lengths = {"variable": variable or {}, "masks": masks or {}, "pad_values": pad_values or {}}
    with _evaluating(module):
        sample = build_sample(module, example, input_names, batched=batched, **lengths)
        outputs = _infer_outputs(module, sample, output_names)
        model = _describe(
            name=name,
            version=version,
            format=format,
            weights=_WEIGHTS.get(format),
            factory=factory,
            inputs=sample.specs(),
            outputs=outputs,
            batching=batching or BatchPolicy(),
            queue=queue,
            description=description,
            output_encoding=output_encoding,
        )
        _write(module, sample, model, folder)
    return folder


@contextlib.contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    flags = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # What torch warns of while exporting is shown, but must not stop an export where
            # warnings are errors; only the end of TorchScript, told on every use, is left out.
            warnings.simplefilter("default")
            warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
            yield
    finally:
        for part, flag in flags:
            part.training = flag


def _describe(**fields: Any) -> ModelFile:
    try:
        return ModelFile(**fields)
    except ValidationError as error:
        raise ModelFolderInvalid(f"export_model: {explain(error)}.") from None


def _infer_outputs(
    module: torch.nn.Module, sample: Sample, names: Sequence[str] | None
) -> dict[str, TensorSpec]:
    first = _forward(module, sample.batch(_SIZE), names)
    second = _forward(module, sample.batch(_OTHER_SIZE, longer=1), names)
    specs = {}
    for name, tensor in first.items():
        shape, other = list(tensor.shape), list(second[name].shape)
        if shape[:1] != [_SIZE] or other[:1] != [_OTHER_SIZE] or len(shape) != len(other):
            raise ModelFolderInvalid(
                f"Output {name!r} has shape {shape} for {_SIZE} rows and {other} for "
                f"{_OTHER_SIZE}: its first extent must be the number of rows."
            )
        row = tuple(a if a == b else -1 for a, b in zip(shape[1:], other[1:], strict=True))
        specs[name] = TensorSpec(dtype=dtype_name(name, tensor), shape=row)
    return specs


def _forward(
    module: torch.nn.Module, batch: Mapping[str, torch.Tensor], names: Sequence[str] | None
) -> dict[str, torch.Tensor]:
    try:
        outputs = module(*batch.values())
    except Exception as error:
        shapes = ", ".join(f"{n}: {t.dtype} {list(t.shape)}" for n, t in batch.items())
        raise ModelFolderInvalid(
            f"The module fails on a batch of the example ({shapes}): "
            f"{type(error).__name__}: {error}. The example is one row; a batch of rows is as good "
            "where no length varies."
        ) from error
    if isinstance(outputs, torch.Tensor):
        outputs = (outputs,)
        names = names or ("output",)
    if isinstance(outputs, (tuple, list)):
        names = names or tuple(f"output_{place}" for place in range(len(outputs)))
        if len(names) != len(outputs):
            raise ModelFolderInvalid(
                f"The module returns {len(outputs)} outputs, output_names has {len(names)}."
            )
        outputs = dict(zip(names, outputs, strict=True))
    if not isinstance(outputs, dict) or not all(
        isinstance(value, torch.Tensor) for value in outputs.values()
    ):
        raise ModelFolderInvalid(
            "The module must return a tensor, a tuple or list of tensors, or a dict of them."
        )
    return outputs


def _write(module: torch.nn.Module, sample: Sample, model: ModelFile, folder: Path) -> None:
    # In a folder of its own first: an export that fails leaves an earlier one as it was.
    folder.mkdir(parents=True, exist_ok=True)
    weights = _WEIGHTS[model.format]
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as name:
        draft = Path(name)
        _write_weights(module, sample, model.format, draft / weights)
        _prove(module, sample, model, draft)
        _write_model_file(model, draft / MODEL_FILE)
        for file in (weights, MODEL_FILE):
            (draft / file).replace(folder / file)


def _write_weights(module: torch.nn.Module, sample: Sample, format_: str, path: Path) -> None:
    try:
        if format_ == "torch_export":
            _write_program(module, sample, path)
        elif format_ == "torchscript":
            _write_script(module, sample, path)
        else:
            save_model(module, str(path))
    except Exception as error:
        raise ModelFolderInvalid(
            f"The module cannot be exported as {format_}: {type(error).__name__}: {error}"
        ) from error


def _write_program(module: torch.nn.Module, sample: Sample, path: Path) -> None:
    program = torch.export.export(
        module,
        tuple(sample.batch(_SIZE).values()),
        dynamic_shapes=sample.dynamic_shapes(),
    )
    # Sample inputs would be pickled, and stack traces show the folders of this machine.
    program.example_inputs = None
    for part in program.graph_module.modules():
        for node in getattr(getattr(part, "graph", None), "nodes", ()):
            node.meta.pop("stack_trace", None)
    torch.export.save(program, path)


def _write_script(module: torch.nn.Module, sample: Sample, path: Path) -> None:
    script: Any = module
    if not isinstance(module, torch.jit.ScriptModule):
        trace: Any = torch.jit.trace
        script = trace(module, tuple(sample.batch(_SIZE).values()), strict=False)
    script.save(str(path))


def _prove(module: torch.nn.Module, sample: Sample, model: ModelFile, folder: Path) -> None:
    batch = sample.batch(_OTHER_SIZE, longer=1)
    names = tuple(model.outputs)
    expected = _forward(module, batch, names)
    again = _forward(module, batch, names)
    allowed = (model.factory.partition(":")[0],) if model.factory else ()
    try:
        loaded = cast("ArrayModel", load_model(folder, model, allowed_modules=allowed))
        got = loaded.forward(batch)
    except ModelError as error:
        raise ModelFolderInvalid(f"What was exported cannot be loaded back: {error}") from error
    except Exception as error:
        raise ModelFolderInvalid(
            f"What was exported fails on {_OTHER_SIZE} rows, longer by 1 where lengths vary: "
            f"{type(error).__name__}: {str(error)[:500]}"
        ) from error
    for name, tensor in expected.items():
        if _close(tensor, again[name]) and not _close(tensor, got[name]):
            raise ModelFolderInvalid(
                f"What was exported computes another output {name!r} than the module on "
                f"{_OTHER_SIZE} rows: the module treats some batch sizes or lengths differently."
            )


def _close(left: torch.Tensor, right: torch.Tensor) -> bool:
    left, right = left.cpu(), right.cpu()
    if not left.dtype.is_floating_point and not left.dtype.is_complex:
        return torch.equal(left, right)
    return torch.allclose(left, right, rtol=1e-3, atol=1e-4, equal_nan=True)


def _write_model_file(model: ModelFile, path: Path) -> None:
    content = model.model_dump(mode="json", exclude_defaults=True)
    order = ["name", "version", "description", "format", "weights", "factory", "inputs", "outputs"]
    content = {key: content[key] for key in [*order, *content] if key in content}
    path.write_text(
        yaml.safe_dump(content, sort_keys=False, default_flow_style=None), encoding="utf-8"
    )
