"""Exporting writes a folder that loads and computes what the module does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from umbel_batching.policy import BatchPolicy
from umbel_config.errors import ModelFolderInvalid
from umbel_registry import TensorSpec, collate, export_model, load_model, read_model_file
from umbel_registry.loading import ArrayModel


def load(folder: Path, allowed: tuple[str, ...] = ()) -> ArrayModel:
    model = load_model(folder, read_model_file(folder), allowed_modules=allowed)
    assert isinstance(model, ArrayModel)
    return model


def test_two_inputs_and_two_outputs_survive(two_by_two: torch.nn.Module, tmp_path: Path) -> None:
    two_by_two.train()
    example = {"right": np.zeros(3, np.float32), "left": np.zeros(4, np.float32)}
    folder = export_model(two_by_two, example, tmp_path, name="pair", version="7", queue="gpu",
                          batching={"max_batch_size": 8}, description="adds")  # fmt: skip
    model = read_model_file(folder)
    assert (model.name, model.version, model.queue, model.description) == (
        "pair", "7", "gpu", "adds")  # fmt: skip
    assert model.batching == BatchPolicy(max_batch_size=8)
    assert list(model.inputs) == ["left", "right"], "the order of forward, not of the dict"
    assert dict(model.outputs) == {
        "scores": TensorSpec(dtype="float32", shape=(3,)),
        "best": TensorSpec(dtype="int64"),
    }
    batch = {"left": torch.randn(5, 4), "right": torch.randn(5, 3)}
    expected = two_by_two(**batch)
    for name, tensor in load(folder).forward(batch).items():
        torch.testing.assert_close(tensor, expected[name])
    assert all(part.training for part in two_by_two.modules()), "left as it was found"


@pytest.mark.parametrize("format_", ["torch_export", "torchscript"])
def test_a_variable_length_with_its_mask(
    masked_mean: torch.nn.Module, masked_export: Path, tmp_path: Path, format_: Any
) -> None:
    folder = masked_export
    if format_ == "torchscript":
        folder = export_model(masked_mean, np.array([1, 2, 3]), tmp_path, name="mean",
                              format="torchscript", variable={"tokens": [0]},
                              masks={"tokens": "mask"}, pad_values={"tokens": 9})  # fmt: skip
    model = load(folder)
    pad_value = 9 if format_ == "torchscript" else 0
    assert model.signature.inputs == {
        "tokens": TensorSpec(dtype="int64", shape=(-1,), mask="mask", pad_value=pad_value)
    }
    assert model.signature.outputs == {"output": TensorSpec(dtype="float32", shape=(4,))}
    rows = model.signature.validate_rows([[1, 2, 3, 4, 5], [7]])
    together = collate(model.signature, rows)
    assert together["mask"].tolist() == [[True] * 5, [True] + [False] * 4]
    assert together["tokens"][1].tolist() == [7] + [pad_value] * 4
    both = forward(model, together)
    for place, row in enumerate(rows):
        alone = forward(model, collate(model.signature, [row]))
        np.testing.assert_allclose(both[place], alone[0], rtol=1e-5)


def forward(model: ArrayModel, batch: dict[str, Any]) -> np.ndarray[Any, Any]:
    tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
    return model.forward(tensors)["output"].numpy()


def test_torchscript_of_a_plain_and_of_a_scripted_module(tmp_path: Path) -> None:
    linear = torch.nn.Linear(4, 3)
    plain = export_model(linear, np.zeros(4, np.float32), tmp_path / "a", name="m",
                         format="torchscript")  # fmt: skip
    script: Any = torch.jit.script
    with pytest.warns(DeprecationWarning, match="torch.jit.script"):
        scripted = script(linear)
    other = export_model(scripted, np.zeros(4, np.float32), tmp_path / "b", name="m",
                         format="torchscript")  # fmt: skip
    x = torch.randn(5, 4)
    for folder in (plain, other):
        got = load(folder).forward({"input": x})["output"]
        torch.testing.assert_close(got, linear(x).detach())


def test_safetensors_need_a_factory(tmp_path: Path, plugin: Callable[[str], str]) -> None:
    linear = torch.nn.Linear(4, 3)
    zeros = np.zeros(4, np.float32)
    with pytest.raises(ModelFolderInvalid, match="format safetensors needs factory"):
        export_model(linear, zeros, tmp_path, name="m", format="safetensors")
    module = plugin("import torch\ndef make():\n    return torch.nn.Linear(4, 3)\n")
    folder = export_model(linear, zeros, tmp_path, name="m", format="safetensors",
                          factory=f"{module}:make")  # fmt: skip
    x = torch.randn(2, 4)
    got = load(folder, (module,)).forward({"input": x})["output"]
    torch.testing.assert_close(got, linear(x).detach())


def test_a_tuple_is_several_inputs_and_outputs_get_names(tmp_path: Path) -> None:
    class Swap(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return b * 2, a + 1

    zeros = (torch.zeros(2), torch.zeros(()))
    model = read_model_file(export_model(Swap(), zeros, tmp_path / "a", name="m"))
    assert (list(model.inputs), list(model.outputs)) == (["a", "b"], ["output_0", "output_1"])
    named = export_model(Swap(), zeros, tmp_path / "b", name="m", input_names=["x", "y"],
                         output_names=["first", "second"])  # fmt: skip
    model = read_model_file(named)
    assert (list(model.inputs), list(model.outputs)) == (["x", "y"], ["first", "second"])
    assert load(named).forward({"x": torch.zeros(3, 2), "y": torch.ones(3)})["first"].sum() == 6


def test_what_is_written_tells_nothing_of_the_machine(linear_export: Path) -> None:
    folders = {b"site-packages", str(Path(__file__).parent).encode()}
    content = (linear_export / "model.pt2").read_bytes()
    assert not [folder for folder in folders if folder in content]
    assert "weights: model.pt2" in (linear_export / "model.yaml").read_text()
    assert yaml.safe_load((linear_export / "model.yaml").read_text())["name"] == "digits"


class Fails(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("out of ideas")


class Sums(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum()


class Counts(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float(x.shape[0])


class Halves(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.bfloat16()


class Texts(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return "text"


ONES = np.ones(4, np.float32)


@pytest.mark.parametrize(
    ("module", "options", "sentence"),
    [
        (Fails(), {}, "fails on a batch of the example .*RuntimeError: out of ideas"),
        (Sums(), {}, r"'output' has shape \[\] for 2 rows and \[\] for 3"),
        (Halves(), {}, "dtype bfloat16, which NumPy does not know"),
        (Texts(), {}, "must return a tensor"),
        (Counts(), {"format": "torchscript"}, "treats some batch sizes or lengths differently"),
        (torch.nn.Linear(4, 3), {"name": "Not A Name"}, "export_model: name: String should match"),
        (torch.nn.Linear(4, 3), {"output_names": ["a", "b"]}, "returns 1 outputs, output_names"),
        (torch.nn.Linear(4, 3), {"variable": {"other": [0]}}, "no input 'other'"),
        (torch.nn.Linear(4, 3), {"variable": {"input": [1]}}, "Axis 1 of input 'input'"),
        (torch.nn.Linear(4, 3), {"masks": {"input": "m"}}, "needs a variable axis"),
        (torch.nn.Linear(4, 3), {"batching": {"max_batch_size": 0}}, "batching.max_batch_size"),
        (torch.nn.Linear(4, 3), {"example": (ONES, ONES)}, "only 1 names are known"),
        (torch.nn.Linear(4, 3), {"example": "text"}, "cannot be made a tensor"),
        (torch.nn.Linear(4, 3), {"example": np.zeros((1, 5), np.float32)}, "one row; a batch"),
    ],
)
def test_what_cannot_be_exported_is_told(
    module: torch.nn.Module,
    options: dict[str, Any],
    sentence: str,
    tmp_path: Path,
    recwarn: pytest.WarningsRecorder,
) -> None:
    given = {"name": "m", "example": ONES, **options}
    example = given.pop("example")
    with pytest.raises(ModelFolderInvalid, match=sentence):
        export_model(module, example, tmp_path, **given)
    assert not list(tmp_path.iterdir()), "nothing half-made is left"


def test_the_same_module_exports_to_the_same_bytes(tmp_path: Path) -> None:
    linear = torch.nn.Linear(4, 3)
    first, second = (
        export_model(linear, ONES, tmp_path / folder, name="m") / "model.pt2" for folder in "ab"
    )
    assert first.read_bytes() == second.read_bytes()


def test_an_output_encoding_is_written_where_it_is_not_the_default(tmp_path: Path) -> None:
    linear = torch.nn.Linear(4, 3)
    folder = export_model(linear, ONES, tmp_path / "a", name="m", output_encoding="base64")
    assert read_model_file(folder).output_encoding == "base64"
    folder = export_model(linear, ONES, tmp_path / "b", name="m", output_encoding="list")
    assert "output_encoding" not in (folder / "model.yaml").read_text()
    wrong: Any = "hex"
    with pytest.raises(ModelFolderInvalid, match="output_encoding"):
        export_model(linear, ONES, tmp_path / "c", name="m", output_encoding=wrong)


def test_a_failed_export_leaves_the_earlier_one_as_it_was(tmp_path: Path) -> None:
    folder = export_model(torch.nn.Linear(4, 3), ONES, tmp_path, name="m")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ModelFolderInvalid):
        export_model(torch.nn.Linear(4, 3), ONES, tmp_path, name="m", format="safetensors")
    with pytest.raises(ModelFolderInvalid):
        export_model(Counts(), ONES, tmp_path, name="m", masks={"x": "m"})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_batch_size_fixed_inside_the_module_is_told(tmp_path: Path) -> None:
    class Fixed(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + (0.0 if x.shape[0] == 2 else 1.0)

    with pytest.raises(ModelFolderInvalid, match="cannot be exported as torch_export"):
        export_model(Fixed(), ONES, tmp_path, name="m")
