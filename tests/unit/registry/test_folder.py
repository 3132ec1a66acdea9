"""``model.yaml``: read as documented, and refused with file, key and what is expected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from umbel_batching.policy import BatchPolicy
from umbel_config.errors import ModelFolderInvalid
from umbel_registry import read_model_file
from umbel_registry.folder import read_files

Write = Callable[..., Path]


def test_the_documented_example_is_read(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text(
        """
name: digits
version: "3"
format: torch_export
weights: model.pt2
inputs:  {pixels: {dtype: float32, shape: [64]}}
outputs: {logits: {dtype: float32, shape: [10]}}
batching: {max_batch_size: 64, max_wait_ms: 5, max_queue: 100000}
queue: umbel
"""
    )
    model = read_model_file(tmp_path)
    assert (model.name, model.version, model.queue) == ("digits", "3", "umbel")
    assert model.batching == BatchPolicy()
    assert model.signature.inputs["pixels"].shape == (64,)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"name": None}, "name: Field required"),
        ({"name": "Digits!"}, "name: String should match pattern"),
        ({"name": "../up"}, "name: String should match pattern"),
        ({"version": 3}, 'version: expected text: write it in quotes, as in version: "3"'),
        ({"version": "latest"}, '"latest" always means the highest version'),
        ({"version": "a b"}, "version: String should match pattern"),
        ({"format": "pickle"}, "format: Input should be 'torch_export'"),
        ({"weights": None}, "format torch_export needs weights"),
        ({"weights": "../model.pt2"}, "weights: expected a path inside the model folder"),
        ({"weights": "/etc/passwd"}, "weights: expected a path inside the model folder"),
        ({"weights": ""}, "weights: expected a path inside the model folder"),
        ({"weights": "a\\b"}, "weights: a path has forward slashes"),
        ({"files": ["a", "b/../../c"]}, "files.1: expected a path inside"),
        ({"weights": "manifest.json"}, "written by umbel"),
        ({"format": "safetensors"}, "format safetensors needs factory"),
        ({"factory": "a:b"}, "factory is for format safetensors only"),
        ({"handler": "a:b"}, "handler is for format handler only"),
        ({"format": "handler", "handler": "no colon"}, "handler: String should match pattern"),
        ({"inputs": {}}, "inputs"),
        ({"inputs": None}, "inputs: Field required"),
        ({"inputs": {"x": {"dtype": "float128"}}}, "inputs.x.dtype: Input should be 'bool'"),
        ({"inputs": {"x": {"dtype": "string"}}}, "are for format handler only"),
        ({"inputs": {"not a name": {"dtype": "float32"}}}, "inputs.not a name"),
        ({"batching": {"max_batch_size": 0}}, "batching.max_batch_size: Input should be greater"),
        ({"batching": {"max_batch": 1}}, "batching.max_batch: unknown key"),
        ({"colour": "red"}, "colour: unknown key"),
        ({"queue": ""}, "queue: String should match pattern"),
    ],
)
def test_a_wrong_key_is_named_with_what_is_expected(
    write_model: Write, changes: dict[str, Any], sentence: str
) -> None:
    folder = write_model(**changes)
    with pytest.raises(ModelFolderInvalid) as refusal:
        read_model_file(folder)
    assert sentence in str(refusal.value)
    assert str(folder / "model.yaml") in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"name: a\n  b: c: d", "cannot be read as YAML (line 2)"),
        (b"- a\n- b\n", "expected a mapping"),
        (b"", "expected a mapping"),
        (b"\xff\xfe\x00", "cannot be read as YAML"),
        (b"!!python/object/apply:os.system ['true']", "cannot be read as YAML"),
    ],
)
def test_what_is_no_yaml_mapping_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "model.yaml").write_bytes(content)
    with pytest.raises(ModelFolderInvalid) as refusal:
        read_model_file(tmp_path)
    assert sentence in str(refusal.value)


def test_a_folder_without_model_yaml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderInvalid, match=r"does not exist.*export_model\(\) writes one"):
        read_model_file(tmp_path / "nowhere")


def test_the_file_itself_is_no_folder(write_model: Write) -> None:
    with pytest.raises(ModelFolderInvalid, match=r"A model folder holds a model\.yaml"):
        read_model_file(write_model() / "model.yaml")


def test_extra_files_and_folders_belong_to_the_model(write_model: Write) -> None:
    folder = write_model(files=["vocab", "labels.txt"])
    (folder / "vocab" / "deep").mkdir(parents=True)
    (folder / "vocab" / "a.txt").write_text("a")
    (folder / "vocab" / "deep" / "b.txt").write_text("bb")
    (folder / "labels.txt").write_text("ccc")
    files = read_files(folder, read_model_file(folder))
    sizes = {path: info.bytes for path, info in files.items()}
    assert sizes == {"model.pt2": 7, "vocab/a.txt": 1, "vocab/deep/b.txt": 2, "labels.txt": 3}


def test_a_missing_file_is_refused(write_model: Write) -> None:
    folder = write_model(weights="gone.pt2")
    with pytest.raises(ModelFolderInvalid, match=r"gone\.pt2 is named in model\.yaml"):
        read_files(folder, read_model_file(folder))


def test_a_link_that_leads_out_is_refused(write_model: Write, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    folder = write_model(weights="link", files=["inner"])
    (folder / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelFolderInvalid, match="leads out of the model folder"):
        read_files(folder, read_model_file(folder))


def test_a_link_below_a_listed_folder_that_leads_out_is_refused(
    write_model: Write, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("secret")
    folder = write_model(files=["inner"])
    (folder / "inner").mkdir()
    (folder / "inner" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelFolderInvalid, match="leads out of the model folder"):
        read_files(folder, read_model_file(folder))
