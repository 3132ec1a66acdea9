"""Artifacts are written once, whole or not at all, and checked before each use."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from umbel_config.errors import (
    ArtifactTampered,
    ModelFolderInvalid,
    ModelLoadFailed,
    ModelUnavailable,
    VersionExists,
)
from umbel_registry import ArtifactStore, Manifest

Make = Callable[..., tuple[Path, Manifest]]


@pytest.fixture(params=["local", "memory"])
def any_store(
    request: pytest.FixtureRequest, store: ArtifactStore, memory_store: ArtifactStore
) -> ArtifactStore:
    return store if request.param == "local" else memory_store


def test_what_was_put_is_fetched(
    any_store: ArtifactStore, make_manifest: Make, tmp_path: Path
) -> None:
    folder, manifest = make_manifest()
    assert any_store.put(folder, manifest) == manifest
    fetched = any_store.fetch(manifest, tmp_path / "cache")
    assert (fetched / "model.pt2").read_bytes() == b"weights"
    assert (fetched / "sub" / "labels.txt").read_bytes() == b"cat\ndog\n"
    assert any_store.find("digits", "1") == manifest
    assert any_store.find("digits", "2") is None


def test_the_same_content_again_changes_nothing(
    any_store: ArtifactStore, make_manifest: Make
) -> None:
    folder, first = make_manifest()
    any_store.put(folder, first)
    folder, again = make_manifest()
    assert any_store.put(folder, again) == first
    assert list(any_store.manifests()) == [first]


def test_the_same_content_again_puts_missing_files_back(
    any_store: ArtifactStore, make_manifest: Make, tmp_path: Path
) -> None:
    folder, manifest = make_manifest()
    any_store.put(folder, manifest)
    lost = f"{any_store._files(manifest)}/sub/labels.txt"
    any_store._fs.rm(lost)
    with pytest.raises(ModelUnavailable, match="push the model again"):
        any_store.fetch(manifest, tmp_path / "before")
    any_store.put(folder, manifest)
    fetched = any_store.fetch(manifest, tmp_path / "after")
    assert (fetched / "sub" / "labels.txt").read_bytes() == b"cat\ndog\n"
    assert all(size is not None for size in any_store.sizes(manifest).values())


def test_a_version_never_changes(any_store: ArtifactStore, make_manifest: Make) -> None:
    any_store.put(*make_manifest())
    with pytest.raises(VersionExists, match="digits 1 exists already with other content"):
        any_store.put(*make_manifest(content=b"other"))


def test_all_versions_are_listed(any_store: ArtifactStore, make_manifest: Make) -> None:
    assert list(any_store.manifests()) == []
    for name, version in (("digits", "1"), ("digits", "2"), ("other", "1")):
        any_store.put(*make_manifest(version, name=name))
    found = [(manifest.name, manifest.version) for manifest in any_store.manifests()]
    assert found == [("digits", "1"), ("digits", "2"), ("other", "1")]
    assert len(list(any_store.manifests("other"))) == 1


def test_a_local_root_is_used_in_place(
    store: ArtifactStore, root: Path, make_manifest: Make, tmp_path: Path
) -> None:
    folder, manifest = make_manifest()
    store.put(folder, manifest)
    assert store.fetch(manifest, tmp_path / "cache").is_relative_to(root)
    assert not (tmp_path / "cache").exists()
    assert [path.name for path in root.iterdir()] == ["digits"], "nothing temporary is left"


def test_changed_weights_are_never_used(
    store: ArtifactStore, make_manifest: Make, tmp_path: Path
) -> None:
    folder, manifest = make_manifest()
    store.put(folder, manifest)
    weights = store.fetch(manifest, tmp_path) / "model.pt2"
    weights.write_bytes(b"weightz")
    with pytest.raises(ArtifactTampered, match=r"model\.pt2 differs from what was pushed as digit"):
        store.fetch(manifest, tmp_path)


def test_a_link_put_in_place_of_a_file_is_refused(
    store: ArtifactStore, make_manifest: Make, tmp_path: Path
) -> None:
    folder, manifest = make_manifest()
    store.put(folder, manifest)
    weights = store.fetch(manifest, tmp_path) / "model.pt2"
    weights.unlink()
    weights.symlink_to(folder / "model.pt2")
    with pytest.raises(ArtifactTampered, match=r"model\.pt2 differs"):
        store.fetch(manifest, tmp_path)


def test_a_missing_file_says_what_to_do(
    any_store: ArtifactStore, make_manifest: Make, tmp_path: Path
) -> None:
    folder, manifest = make_manifest()
    any_store.put(folder, manifest)
    any_store._fs.rm(f"{any_store._files(manifest)}/model.pt2")
    with pytest.raises(ModelLoadFailed, match=r"model\.pt2 is missing .* push the model again"):
        any_store.fetch(manifest, tmp_path / "cache")


def test_a_remote_copy_is_checked_on_arrival_and_in_the_cache(
    memory_store: ArtifactStore, make_manifest: Make, tmp_path: Path
) -> None:
    folder, manifest = make_manifest()
    memory_store.put(folder, manifest)
    cached = memory_store.fetch(manifest, tmp_path / "cache")
    (cached / "model.pt2").write_bytes(b"weightz")
    with pytest.raises(ArtifactTampered, match=r"model\.pt2 differs"):
        memory_store.fetch(manifest, tmp_path / "cache")
    memory_store._fs.pipe_file(f"{memory_store._files(manifest)}/model.pt2", b"weightz")
    with pytest.raises(ArtifactTampered, match=r"model\.pt2 differs"):
        memory_store.fetch(manifest, tmp_path / "other-cache")
    left = [path for path in (tmp_path / "other-cache").rglob("*") if path.is_file()]
    assert left == [], "nothing tampered stays in the cache"


def test_a_cached_copy_is_not_fetched_again(
    memory_store: ArtifactStore, make_manifest: Make, tmp_path: Path
) -> None:
    folder, manifest = make_manifest()
    memory_store.put(folder, manifest)
    first = memory_store.fetch(manifest, tmp_path / "cache")
    memory_store._fs.rm(memory_store._files(manifest), recursive=True)
    assert memory_store.fetch(manifest, tmp_path / "cache") == first


def test_a_folder_that_changed_since_it_was_described_is_refused(
    any_store: ArtifactStore, make_manifest: Make
) -> None:
    folder, manifest = make_manifest()
    (folder / "model.pt2").write_bytes(b"changed")
    with pytest.raises(ArtifactTampered, match=r"model\.pt2 differs"):
        any_store.put(folder, manifest)
    assert list(any_store.manifests()) == []


def test_a_put_that_dies_half_way_leaves_no_version(
    any_store: ArtifactStore, make_manifest: Make
) -> None:
    folder, manifest = make_manifest()
    (folder / "sub" / "labels.txt").unlink()
    with pytest.raises((ModelFolderInvalid, ModelLoadFailed)):
        any_store.put(folder, manifest)
    assert list(any_store.manifests()) == []
    assert any_store.find("digits", "1") is None


def test_files_without_a_manifest_are_no_version(
    store: ArtifactStore, root: Path, make_manifest: Make
) -> None:
    folder, manifest = make_manifest()
    abandoned = root / ".incoming-dead" / manifest.digest
    shutil.copytree(folder, abandoned)
    (abandoned / "manifest.json").write_bytes(manifest.to_json())
    assert list(store.manifests()) == []


def test_a_root_may_have_any_name(make_manifest: Make, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "models [old] *")
    folder, manifest = make_manifest()
    store.put(folder, manifest)
    assert list(store.manifests()) == [manifest]


def test_a_manifest_in_a_wrong_place_is_refused(
    store: ArtifactStore, root: Path, make_manifest: Make
) -> None:
    store.put(*make_manifest("1"))
    (root / "digits" / "1").rename(root / "digits" / "2")
    with pytest.raises(ArtifactTampered, match="describes digits 1, which belongs elsewhere"):
        list(store.manifests())
