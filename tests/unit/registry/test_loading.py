"""Models run what their signature says, and loading one never executes what lies in a file."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_model
from torch.export.pt2_archive import PT2ArchiveReader, PT2ArchiveWriter

from umbel_config.errors import ModelFolderInvalid, ModelLoadFailed
from umbel_registry import WrongRowCount, load_model, read_model_file
from umbel_registry.loading import ArrayModel, HandlerModel
from umbel_registry.manifest import ModelFile

MEMBERS = "data/sample_inputs/model.pt", "models/model.json"


def describe(format_: str, **changes: Any) -> ModelFile:
    fields: dict[str, Any] = {
        "name": "digits",
        "format": format_,
        "weights": "model.bin",
        "inputs": {"x": {"dtype": "float32", "shape": [4]}},
        "outputs": {"y": {"dtype": "float32", "shape": [3]}},
    }
    return ModelFile.model_validate({k: v for k, v in (fields | changes).items() if v is not None})


def handler(reference: str, **changes: Any) -> ModelFile:
    return describe("handler", weights=None, handler=reference, **changes)


def rewrite(path: Path, members: dict[str, bytes | None]) -> None:
    """Puts other members into a ``.pt2``; ``None`` drops one."""
    with PT2ArchiveReader(str(path)) as reader:
        content: dict[str, bytes | None] = {
            name: reader.read_bytes(name)
            for name in reader.get_file_names()
            if not name.startswith(".data/") and name not in {"byteorder", "version"}
        }
    content |= members
    with PT2ArchiveWriter(str(path)) as writer:
        for name, raw in content.items():
            if raw is not None:
                writer.write_bytes(name, raw)


def program_of(path: Path) -> dict[str, Any]:
    with PT2ArchiveReader(str(path)) as reader:
        program: dict[str, Any] = json.loads(reader.read_bytes("models/model.json"))
    return program


def pickled(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_an_exported_model_takes_batches_of_any_size(linear_folder: Path, rows: int) -> None:
    model = load_model(linear_folder, read_model_file(linear_folder))
    assert isinstance(model, ArrayModel)
    outputs = model.forward({"input": torch.ones(rows, 4)})
    assert {name: tensor.shape for name, tensor in outputs.items()} == {"output": (rows, 3)}
    assert outputs["output"].is_inference()


def test_rewriting_a_file_unchanged_keeps_it_loadable(linear_folder: Path) -> None:
    rewrite(linear_folder / "model.pt2", {})
    load_model(linear_folder, read_model_file(linear_folder))


def refuse(folder: Path, marker: Path, sentence: str) -> None:
    with pytest.raises(ModelLoadFailed, match=sentence):
        load_model(folder, read_model_file(folder))
    assert not marker.exists(), "loading has executed what the file holds"


def test_pickled_sample_inputs_are_refused(linear_folder: Path, bomb: Any, marker: Path) -> None:
    path = linear_folder / "model.pt2"
    rewrite(path, {"data/sample_inputs/model.pt": pickled(((bomb,), {}))})
    refuse(linear_folder, marker, "sample inputs are pickled objects")


def test_plain_sample_inputs_are_accepted(linear_folder: Path) -> None:
    plain = pickled(((torch.ones(2, 4),), {}))
    rewrite(linear_folder / "model.pt2", {"data/sample_inputs/model.pt": plain})
    load_model(linear_folder, read_model_file(linear_folder))


@pytest.mark.parametrize("kind", ["weights", "constants"])
def test_pickled_weights_and_constants_are_refused(
    linear_folder: Path, bomb: Any, marker: Path, kind: str
) -> None:
    config = f"data/{kind}/model_{kind}_config.json"
    name = {"weights": "weight_0", "constants": "tensor_0"}[kind]
    entry = {"path_name": name, "is_param": False, "use_pickle": True, "tensor_meta": None}
    payload = json.dumps({"config": {"evil": entry}}).encode()
    rewrite(
        linear_folder / "model.pt2",
        {config: payload, f"data/{kind}/{name}": pickled({"a": bomb})},
    )
    refuse(linear_folder, marker, "pickled weight or constant")


@pytest.mark.parametrize(
    "member",
    [
        "data/constants/opaque_obj_0",
        "data/constants/custom_obj_0",
        "data/constants/model.pt",
        "data/weights/model.pt",
        "data/aotinductor/model/code.so",
        "models/other.json",
    ],
)
def test_members_that_could_run_code_are_refused(
    linear_folder: Path, bomb: Any, marker: Path, member: str
) -> None:
    rewrite(linear_folder / "model.pt2", {member: pickle.dumps(bomb)})
    refuse(linear_folder, marker, "which could run code when loaded")


def test_the_old_layout_is_refused(linear_folder: Path, bomb: Any, marker: Path) -> None:
    with zipfile.ZipFile(linear_folder / "model.pt2", "w") as archive:
        archive.writestr("version", "8.1")
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr("serialized_state_dict.pt", pickled({"a": bomb}))
        archive.writestr("serialized_constants.pt", pickled({}))
    refuse(linear_folder, marker, "which torch unpickles")


def edit(program: Any, key: str, value: Any) -> bool:
    """Replaces the first text found under ``key``."""
    if isinstance(program, dict):
        if isinstance(program.get(key), str):
            program[key] = value
            return True
        return any(edit(part, key, value) for part in program.values())
    return isinstance(program, list) and any(edit(part, key, value) for part in program)


@pytest.mark.parametrize(
    ("key", "text", "sentence"),
    [
        ("expr_str", "__import__('pathlib').Path({marker!r}).touch()", "more than arithmetic"),
        ("expr_str", "eval('exit')", "more than arithmetic"),
        ("expr_str", "Symbol('x').__class__", "more than arithmetic"),
        ("expr_str", "(lambda: 1)()", "more than arithmetic"),
        ("expr_str", "1 +", "cannot be parsed"),
        ("expr_str", "1 # comment", "odd characters"),
        ("target", "torch.os.system", "no operator"),
        ("target", "torch.ops.load_library", "no operator"),
        ("target", "torch.ops.aten.from_file.default", "no operator"),
        ("target", "torch.ops.aten.__class__.mro", "no operator"),
        ("target", "_operator.attrgetter", "no operator"),
        ("target", "#extension:op", "no operator"),
        ("name", "x): open({marker!r}, 'w'", "no identifier"),
        ("parameter_name", "weight')); open('", "malformed"),
        ("in_spec", "nonsense", "cannot be read"),
        ("in_spec", '[1, {{"type": "collections.defaultdict", "context": null}}]', "more than ten"),
        (
            "in_spec",
            '[1, {{"type": "builtins.dict", "context": "[{{\\"__enum__\\": 1}}]"}}]',
            "malformed",
        ),
    ],
)
def test_text_that_torch_would_turn_into_code_is_refused(
    linear_folder: Path, marker: Path, key: str, text: str, sentence: str
) -> None:
    path = linear_folder / "model.pt2"
    program = program_of(path)
    assert edit(program, key, text.format(marker=str(marker))), f"there is no {key} to replace"
    rewrite(path, {"models/model.json": json.dumps(program).encode()})
    refuse(linear_folder, marker, sentence)


def test_guards_that_are_code_are_refused(linear_folder: Path, marker: Path) -> None:
    path = linear_folder / "model.pt2"
    program = program_of(path) | {"guards_code": [f"open({str(marker)!r}, 'w') == 1"]}
    rewrite(path, {"models/model.json": json.dumps(program).encode()})
    refuse(linear_folder, marker, "more than arithmetic")


@pytest.mark.parametrize("format_", ["torch_export", "torchscript", "safetensors"])
def test_a_pickle_in_place_of_weights_is_refused(
    tmp_path: Path,
    plugin: Callable[[str], str],
    bomb: Any,
    marker: Path,
    format_: str,
) -> None:
    module = plugin("import torch\ndef make():\n    return torch.nn.Linear(4, 3)\n")
    factory = f"{module}:make" if format_ == "safetensors" else None
    for content in (pickle.dumps(bomb), pickled({"weight": bomb})):
        (tmp_path / "model.bin").write_bytes(content)
        with pytest.raises(ModelLoadFailed, match=r"model\.bin cannot be loaded"):
            load_model(tmp_path, describe(format_, factory=factory), allowed_modules=(module,))
        assert not marker.exists()


@pytest.mark.parametrize("size", [0, 10, 1000])
def test_a_truncated_archive_is_refused(linear_folder: Path, size: int) -> None:
    path = linear_folder / "model.pt2"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ModelLoadFailed, match="cannot be loaded as a torch"):
        load_model(linear_folder, read_model_file(linear_folder))


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderInvalid, match=r"model\.bin is named in model\.yaml but does"):
        load_model(tmp_path, describe("torch_export"))


def test_safetensors_fill_what_an_allowed_factory_makes(
    tmp_path: Path, plugin: Callable[[str], str]
) -> None:
    module = plugin("import torch\ndef make():\n    return torch.nn.Linear(4, 3)\n")
    linear = torch.nn.Linear(4, 3)
    save_model(linear, str(tmp_path / "model.bin"))
    model = load_model(
        tmp_path, describe("safetensors", factory=f"{module}:make"), allowed_modules=[module]
    )
    assert isinstance(model, ArrayModel)
    x = torch.randn(5, 4)
    torch.testing.assert_close(model.forward({"x": x})["y"], linear(x).detach())


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("def make():\n    return 3\n", "returned int, not a torch.nn.Module"),
        ("import torch\ndef make():\n    return torch.nn.Linear(2, 2)\n", "size mismatch"),
        ("def make():\n    raise OSError('no disk')\n", "OSError: no disk"),
        ("def other():\n    pass\n", "has no 'make'"),
        ("import a_module_that_is_nowhere\n", "Is it installed where the workers run"),
    ],
)
def test_a_factory_that_does_not_fit_is_refused(
    tmp_path: Path, plugin: Callable[[str], str], source: str, sentence: str
) -> None:
    module = plugin(source)
    save_model(torch.nn.Linear(4, 3), str(tmp_path / "model.bin"))
    with pytest.raises(ModelLoadFailed, match=sentence):
        load_model(
            tmp_path, describe("safetensors", factory=f"{module}:make"), allowed_modules=[module]
        )


def test_modules_must_be_allowed_by_name(
    tmp_path: Path, plugin: Callable[[str], str], marker: Path
) -> None:
    module = plugin(f"open({str(marker)!r}, 'w').close()\nclass H:\n    pass\n")
    for allowed in ((), ("",), (module[:-1],), (f"{module}.sub",)):
        with pytest.raises(ModelLoadFailed, match=r"allowed_modules \(UMBEL_ALLOWED_MODULES\)"):
            load_model(tmp_path, handler(f"{module}:H"), allowed_modules=allowed)
    assert not marker.exists(), "a module that is not allowed must not be imported"


def test_an_allowed_package_allows_what_is_below_it(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match="has no 'Handler'"):
        load_model(tmp_path, handler("email.mime.text:Handler"), allowed_modules=["email"])


STRINGS = {
    "inputs": {"text": {"dtype": "string"}},
    "outputs": {"length": {"dtype": "int64"}, "upper": {"dtype": "string"}},
}
COUNTER = """
class Counter:
    def __init__(self, folder, device):
        self.made_with = (folder, device)

    def preprocess(self, inputs):
        return [text.strip() for text in inputs]

    def forward(self, batch):
        import torch
        assert torch.is_inference_mode_enabled()
        return batch

    def postprocess(self, outputs):
        import numpy as np
        return {
            "length": np.array([len(text) for text in outputs]),
            "upper": [text.upper() for text in outputs],
        }
"""


def test_a_handler_gets_the_rows_of_a_batch_and_gives_rows(
    tmp_path: Path, plugin: Callable[[str], str]
) -> None:
    module = plugin(COUNTER)
    model = load_model(tmp_path, handler(f"{module}:Counter", **STRINGS), "cpu", [module])
    assert isinstance(model, HandlerModel)
    assert model.run([" ab", "c"]) == [
        {"length": 2, "upper": "AB"},
        {"length": 1, "upper": "C"},
    ]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return [text + '!' for text in batch]", ["a!", "b!"]),
        ("return (len(text) for text in batch)", ModelLoadFailed),
        ("import numpy as np; return np.arange(len(batch))", [0, 1]),
        ("import torch; return torch.arange(len(batch))", [0, 1]),
        ("import torch; return [torch.tensor(1), torch.tensor(2)]", [1, 2]),
        ("return {'out': ['x', 'y']}", ["x", "y"]),
        ("return {'other': ['x', 'y']}", ModelLoadFailed),
        ("return None", ModelLoadFailed),
        ("return batch[:1]", WrongRowCount),
        ("return batch * 2", WrongRowCount),
    ],
)
def test_what_a_handler_returns_is_cut_into_rows(
    tmp_path: Path, plugin: Callable[[str], str], body: str, expected: Any
) -> None:
    module = plugin(
        f"class H:\n    def __init__(self, folder, device): pass\n"
        f"    def forward(self, batch):\n        {body}\n"
    )
    plain = {"inputs": STRINGS["inputs"], "outputs": {"out": {"dtype": "json"}}}
    model = load_model(tmp_path, handler(f"{module}:H", **plain), allowed_modules=[module])
    assert isinstance(model, HandlerModel)
    if isinstance(expected, list):
        assert model.run(["a", "b"]) == expected
        return
    with pytest.raises(expected):
        model.run(["a", "b"])


def test_columns_of_different_lengths_are_refused(
    tmp_path: Path, plugin: Callable[[str], str]
) -> None:
    module = plugin(
        "class H:\n    def __init__(self, folder, device): pass\n"
        "    def forward(self, batch):\n        return {'length': [1], 'upper': batch}\n"
    )
    model = load_model(tmp_path, handler(f"{module}:H", **STRINGS), allowed_modules=[module])
    assert isinstance(model, HandlerModel)
    with pytest.raises(ModelLoadFailed, match=r"length: 1, upper: 2"):
        model.run(["a", "b"])


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("class H:\n    pass\n", r"cannot be made as H\(folder, device\): TypeError"),
        ("class H:\n    def __init__(self, f, d): pass\n", r"no method forward\(batch\)"),
    ],
)
def test_a_class_that_is_no_handler_is_refused(
    tmp_path: Path, plugin: Callable[[str], str], source: str, sentence: str
) -> None:
    module = plugin(source)
    with pytest.raises(ModelLoadFailed, match=sentence):
        load_model(tmp_path, handler(f"{module}:H"), allowed_modules=[module])


@pytest.mark.parametrize(
    ("returns", "error", "sentence"),
    [
        (lambda x: x[:, :3].double(), ModelLoadFailed, "dtype torch.float64, declared is float32"),
        (lambda x: x, ModelLoadFailed, r"shape \[2, 4\], declared is \[n, \*\[3\]\]"),
        (lambda x: (x, x), ModelLoadFailed, r"other outputs \(2 unnamed\)"),
        (lambda x: {"z": x}, ModelLoadFailed, r"other outputs \(z\)"),
        (lambda x: "text", ModelLoadFailed, r"other outputs \(str\)"),
        (lambda x: ["text"], ModelLoadFailed, "str, not a tensor"),
        (lambda x: x[:1, :3], WrongRowCount, "1 rows for a batch of 2"),
    ],
)
def test_an_array_model_must_return_what_it_declares(
    returns: Callable[[torch.Tensor], Any], error: type[Exception], sentence: str
) -> None:
    model = ArrayModel(returns, describe("torch_export"), "cpu")
    with pytest.raises(error, match=sentence) as refusal:
        model.forward({"x": torch.ones(2, 4)})
    if isinstance(refusal.value, WrongRowCount):
        assert (refusal.value.expected, refusal.value.got) == (2, 1)
