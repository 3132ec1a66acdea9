"""What lies under the artifact root is told as it is: sizes, and what is missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from umbel_registry import ArtifactStore, Manifest, TensorSpec
from umbel_registry.manifest import ModelFile, build_manifest
from umbel_registry.paths import hash_files

FILES = {"model.pt2": b"weights", "extra/words.txt": b"one two"}


@pytest.fixture
def stored(tmp_path: Path) -> tuple[ArtifactStore, Manifest, Path]:
    folder = tmp_path / "folder"
    for path, content in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    spec = TensorSpec(dtype="float32", shape=(1,))
    model = ModelFile(
        name="m",
        format="torch_export",
        weights="model.pt2",
        inputs={"x": spec},
        outputs={"y": spec},
    )
    manifest = build_manifest(model, hash_files(folder, FILES), "1")
    store = ArtifactStore(tmp_path / "root")
    store.put(folder, manifest)
    return store, manifest, tmp_path / "root" / "m" / "1" / manifest.digest


def test_sizes_are_those_recorded(stored: tuple[ArtifactStore, Manifest, Path]) -> None:
    store, manifest, _ = stored
    assert store.sizes(manifest) == {path: len(content) for path, content in FILES.items()}


def test_changed_missing_and_replaced_files(
    stored: tuple[ArtifactStore, Manifest, Path],
) -> None:
    store, manifest, place = stored
    (place / "model.pt2").write_bytes(b"longer than before")
    shutil.rmtree(place / "extra")
    assert store.sizes(manifest) == {"model.pt2": 18, "extra/words.txt": None}
    (place / "model.pt2").unlink()
    (place / "model.pt2").mkdir()
    assert store.sizes(manifest)["model.pt2"] is None
