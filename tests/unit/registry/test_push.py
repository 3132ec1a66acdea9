"""Pushing checks a folder, tries the model, stores it and makes it known, in that order."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from umbel_config.errors import ModelFolderInvalid, ModelLoadFailed, VersionExists
from umbel_registry import ArtifactStore, Catalog, export_model, load_model, push
from umbel_registry.loading import ArrayModel


def change(folder: Path, **keys: Any) -> Path:
    """Changes keys of ``model.yaml``."""
    path = folder / "model.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | keys, sort_keys=False))
    return folder


def test_a_pushed_model_is_known_stored_and_loadable(
    linear_folder: Path, catalog: Catalog, store: ArtifactStore, tmp_path: Path
) -> None:
    manifest = push(linear_folder, catalog=catalog, store=store)
    assert (manifest.name, manifest.version) == ("digits", "1")
    assert catalog.get("digits") == manifest
    shutil.rmtree(linear_folder)
    model = load_model(store.fetch(manifest, tmp_path / "cache"), manifest)
    assert isinstance(model, ArrayModel)
    assert model.forward({"input": torch.ones(2, 4)})["output"].shape == (2, 3)


def test_the_same_content_keeps_its_version_and_new_content_gets_the_next(
    linear_folder: Path, catalog: Catalog, store: ArtifactStore
) -> None:
    first = push(linear_folder, catalog=catalog, store=store)
    assert push(linear_folder, catalog=catalog, store=store) == first
    assert catalog.revision() == 1
    change(linear_folder, batching={"max_batch_size": 3})
    second = push(linear_folder, catalog=catalog, store=store)
    assert (second.version, second.policy.max_batch_size) == ("2", 3)
    assert push(linear_folder, catalog=catalog, store=store, version="9.5").version == "9.5"
    change(linear_folder, queue="gpu")
    assert push(linear_folder, catalog=catalog, store=store).version == "10"
    assert catalog.versions("digits") == ["1", "2", "9.5", "10"]


def test_another_output_encoding_is_other_content(
    linear_folder: Path, catalog: Catalog, store: ArtifactStore
) -> None:
    push(linear_folder, catalog=catalog, store=store)
    change(linear_folder, output_encoding="base64")
    second = push(linear_folder, catalog=catalog, store=store)
    assert (second.version, second.output_encoding) == ("2", "base64")
    assert catalog.get("digits", "2") == second
    change(linear_folder, output_encoding="list")
    assert push(linear_folder, catalog=catalog, store=store).version == "1"


def test_a_version_that_is_named_is_used_and_never_changes(
    linear_folder: Path, catalog: Catalog, store: ArtifactStore
) -> None:
    change(linear_folder, version="3")
    assert push(linear_folder, catalog=catalog, store=store).version == "3"
    assert push(linear_folder, catalog=catalog, store=store).version == "3"
    change(linear_folder, queue="gpu")
    with pytest.raises(VersionExists, match="digits 3 exists already"):
        push(linear_folder, catalog=catalog, store=store)
    assert push(linear_folder, catalog=catalog, store=store, version="4").version == "4"
    with pytest.raises(ModelFolderInvalid, match='"latest" always means'):
        push(linear_folder, catalog=catalog, store=store, version="latest")


def test_a_push_that_died_before_registering_is_picked_up(
    linear_folder: Path,
    catalog: Catalog,
    store: ArtifactStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def die(_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(catalog, "register", die)
        with pytest.raises(KeyboardInterrupt):
            push(linear_folder, catalog=catalog, store=store)
    assert catalog.names() == []
    (orphan,) = store.manifests()
    assert push(linear_folder, catalog=catalog, store=store) == orphan
    assert catalog.list() == [orphan]


def test_a_push_that_died_is_picked_up_by_restore_and_its_number_is_taken(
    linear_folder: Path,
    catalog: Catalog,
    store: ArtifactStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(catalog, "register", lambda manifest: False)
        push(linear_folder, catalog=catalog, store=store)
    change(linear_folder, queue="gpu")
    assert push(linear_folder, catalog=catalog, store=store).version == "2"
    assert catalog.restore(store) == 1
    assert catalog.versions("digits") == ["1", "2"]


def test_a_lost_artifact_is_stored_again(
    linear_folder: Path, catalog: Catalog, store: ArtifactStore, root: Path, tmp_path: Path
) -> None:
    manifest = push(linear_folder, catalog=catalog, store=store)
    shutil.rmtree(root)
    assert push(linear_folder, catalog=catalog, store=store).version == "1"
    store.fetch(manifest, tmp_path / "cache")


def test_a_number_taken_in_between_is_passed_over(
    linear_folder: Path,
    catalog: Catalog,
    store: ArtifactStore,
    make_manifest: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put = store.put
    rival = make_manifest("1")

    def raced(folder: Path, manifest: Any) -> Any:
        if manifest.version == "1":
            put(*rival)
        return put(folder, manifest)

    monkeypatch.setattr(store, "put", raced)
    assert push(linear_folder, catalog=catalog, store=store).version == "2"


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (
            {"inputs": {"x": {"dtype": "float32", "shape": [5]}}},
            r"Dry run of digits with 1 made-up rows failed: ",
        ),
        (
            {"outputs": {"y": {"dtype": "float32", "shape": [4]}}},
            r"shape \[1, 3\], declared is \[n, \*\[4\]\]",
        ),
        (
            {"outputs": {"y": {"dtype": "float64", "shape": [3]}}},
            "dtype torch.float32, declared is float64",
        ),
        (
            {"outputs": {n: {"dtype": "float32", "shape": [3]} for n in "ab"}},
            "other outputs .* than its signature names",
        ),
        ({"examples": [[1, 2]]}, r"entry of examples does not fit .*shape \[4\], but has \[2\]"),
    ],
)
def test_a_model_that_does_not_do_what_it_declares_is_refused(
    linear_folder: Path,
    catalog: Catalog,
    store: ArtifactStore,
    keys: dict[str, Any],
    sentence: str,
) -> None:
    with pytest.raises(ModelFolderInvalid, match=sentence):
        push(change(linear_folder, **keys), catalog=catalog, store=store)
    assert catalog.names() == []
    assert list(store.manifests()) == []


def test_a_model_of_variable_length_is_tried_at_several(
    masked_export: Path, catalog: Catalog, store: ArtifactStore
) -> None:
    manifest = push(masked_export, catalog=catalog, store=store)
    assert manifest.signature.variable_input == "tokens"


def test_a_length_that_only_seems_variable_is_found(
    tmp_path: Path, catalog: Catalog, store: ArtifactStore
) -> None:
    folder = export_model(torch.nn.Linear(8, 1), torch.zeros(8), tmp_path / "m", name="m")
    change(folder, inputs={"input": {"dtype": "float32", "shape": [-1]}})
    with pytest.raises(ModelFolderInvalid, match="Dry run of m with 1 made-up rows failed"):
        push(folder, catalog=catalog, store=store)


def handler_folder(folder: Path, reference: str, **keys: Any) -> Path:
    folder.mkdir()
    content = {
        "name": "texts",
        "format": "handler",
        "handler": reference,
        "inputs": {"text": {"dtype": "string"}},
        "outputs": {"length": {"dtype": "int64"}},
        "files": ["words.txt"],
        **keys,
    }
    (folder / "words.txt").write_text("one two")
    (folder / "model.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder


LENGTHS = """
class Lengths:
    def __init__(self, folder, device):
        self.words = (folder / "words.txt").read_text()

    def forward(self, batch):
        return [len(text) + {extra} for text in batch]{cut}
"""


def test_a_handler_of_strings_is_tried_with_text(
    tmp_path: Path, plugin: Callable[[str], str], catalog: Catalog, store: ArtifactStore
) -> None:
    module = plugin(LENGTHS.format(extra=0, cut=""))
    folder = handler_folder(tmp_path / "texts", f"{module}:Lengths")
    manifest = push(folder, catalog=catalog, store=store, allowed_modules=[module])
    assert list(manifest.files) == ["words.txt"]
    model = load_model(store.fetch(manifest, tmp_path), manifest, allowed_modules=[module])
    assert not isinstance(model, ArrayModel)
    assert model.run(["ab", "c"]) == [2, 1]


@pytest.mark.parametrize(
    ("extra", "cut", "sentence"),
    [
        (0, "[:2]", "2 rows for a batch of 3"),
        (0.5, "", "row 0 is not what its outputs say. output 'length' must hold whole numbers"),
        ("missing", "", "NameError: name 'missing' is not defined"),
    ],
)
def test_a_handler_that_misbehaves_is_refused(
    tmp_path: Path,
    plugin: Callable[[str], str],
    catalog: Catalog,
    store: ArtifactStore,
    extra: object,
    cut: str,
    sentence: str,
) -> None:
    module = plugin(LENGTHS.format(extra=extra, cut=cut))
    folder = handler_folder(tmp_path / "texts", f"{module}:Lengths")
    with pytest.raises(ModelFolderInvalid, match=sentence):
        push(folder, catalog=catalog, store=store, allowed_modules=[module])


def test_examples_are_used_where_made_up_inputs_would_not_do(
    tmp_path: Path, plugin: Callable[[str], str], catalog: Catalog, store: ArtifactStore
) -> None:
    module = plugin(
        "class Keys:\n    def __init__(self, folder, device): pass\n"
        "    def forward(self, batch):\n        return [row['key'] for row in batch]\n"
    )
    inputs = {"row": {"dtype": "json"}}
    folder = handler_folder(tmp_path / "a", f"{module}:Keys", inputs=inputs)
    with pytest.raises(ModelFolderInvalid, match="TypeError"):
        push(folder, catalog=catalog, store=store, allowed_modules=[module])
    examples = [{"key": 1}, {"key": 2}]
    folder = handler_folder(tmp_path / "b", f"{module}:Keys", inputs=inputs, examples=examples)
    manifest = push(folder, catalog=catalog, store=store, allowed_modules=[module])
    assert list(manifest.examples) == examples


def test_a_handler_that_is_not_allowed_is_not_imported(
    tmp_path: Path, plugin: Callable[[str], str], catalog: Catalog, store: ArtifactStore
) -> None:
    module = plugin("raise AssertionError('imported')\n")
    folder = handler_folder(tmp_path / "texts", f"{module}:Lengths")
    with pytest.raises(ModelLoadFailed, match="UMBEL_ALLOWED_MODULES"):
        push(folder, catalog=catalog, store=store)
