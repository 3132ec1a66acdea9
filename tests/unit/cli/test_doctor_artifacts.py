"""Artifacts: there, of the right size, and with --deep of the right content."""

from __future__ import annotations

from pathlib import Path

import pytest

from umbel_cli.doctor.artifacts import judge_artifacts
from umbel_cli.doctor.findings import Finding, Level
from umbel_registry import ArtifactStore, Manifest, TensorSpec
from umbel_registry.artifacts import MANIFEST_FILE
from umbel_registry.manifest import ModelFile, build_manifest
from umbel_registry.paths import hash_files

SPEC = {"x": TensorSpec(dtype="float32", shape=(1,))}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def manifest(tmp_path: Path, root: Path) -> Manifest:
    return store(tmp_path, root, b"weights", "1")


def store(tmp_path: Path, root: Path, weights: bytes, version: str) -> Manifest:
    folder = tmp_path / f"folder-{len(weights)}"
    folder.mkdir()
    (folder / "model.pt2").write_bytes(weights)
    model = ModelFile(
        name="m", format="torch_export", weights="model.pt2", inputs=SPEC, outputs=SPEC
    )
    made = build_manifest(model, hash_files(folder, ["model.pt2"]), version)
    return ArtifactStore(root).put(folder, made)


def file_of(manifest: Manifest, root: Path) -> Path:
    return root / "m" / "1" / manifest.digest / "model.pt2"


def judged(root: Path, *manifests: Manifest, deep: bool = False) -> list[Finding]:
    return list(judge_artifacts(manifests, str(root), deep=deep))


@pytest.mark.parametrize(("deep", "words"), [(False, "sizes compared"), (True, "SHA-256 compared")])
def test_intact(manifest: Manifest, root: Path, deep: bool, words: str) -> None:
    (found,) = judged(root, manifest, deep=deep)
    assert found.level is Level.OK
    assert f"1 version, 7 B in {root} ({words}" in found.summary


def test_no_model_and_no_root_yet(root: Path) -> None:
    (found,) = judged(root)
    assert (found.level, "No model" in found.summary) == (Level.OK, True)


def test_a_missing_file(manifest: Manifest, root: Path) -> None:
    file_of(manifest, root).unlink()
    (found,) = judged(root, manifest)
    assert found.level is Level.PROBLEM
    assert "model.pt2 of m 1 is missing" in found.summary


def test_a_file_of_another_size(manifest: Manifest, root: Path) -> None:
    file_of(manifest, root).write_bytes(b"longer than before")
    (found,) = judged(root, manifest)
    assert "model.pt2 of m 1 has 18 bytes instead of 7" in found.summary


def test_a_changed_file_of_the_same_size_is_found_by_reading_it(
    manifest: Manifest, root: Path
) -> None:
    file_of(manifest, root).write_bytes(b"WEIGHTS")
    assert judged(root, manifest)[0].level is Level.OK
    (found,) = judged(root, manifest, deep=True)
    assert (found.level, "changed (SHA-256)" in found.summary) == (Level.PROBLEM, True)


def test_a_version_that_is_not_there(manifest: Manifest, root: Path) -> None:
    (found,) = judged(root.parent / "elsewhere", manifest)
    assert (found.level, "m 1 is missing" in found.summary) == (Level.PROBLEM, True)


def test_a_damaged_manifest(manifest: Manifest, root: Path) -> None:
    (root / "m" / "1" / MANIFEST_FILE).write_text("{}")
    (found,) = judged(root, manifest)
    assert "the manifest of m 1 is damaged" in found.summary


def test_another_model_under_the_same_version(
    manifest: Manifest, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "b").mkdir()
    other = store(tmp_path, tmp_path / "b" / "root", b"other weights", "1")
    (found,) = judged(root, other)
    assert "m 1 is another model than the one registered" in found.summary
    assert manifest.digest != other.digest


def test_what_is_stored_but_not_registered(manifest: Manifest, root: Path, tmp_path: Path) -> None:
    store(tmp_path, root, b"of version two", "2")
    found = judged(root, manifest)
    assert [(each.check, each.level) for each in found] == [
        ("models.artifacts", Level.OK),
        ("models.registered", Level.WARNING),
    ]
    assert found[1].summary == "Stored but not registered: m 2"


def test_a_root_that_cannot_be_read(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    (found,) = judged(tmp_path / "file", manifest)
    assert found.level is Level.PROBLEM


def test_a_root_of_an_unknown_kind(manifest: Manifest) -> None:
    (found,) = judge_artifacts([manifest], "nowhere://bucket/models", deep=False)
    assert (found.level, "cannot be read (ValueError)" in found.summary) == (Level.PROBLEM, True)
