"""What is registered, in Redis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import fakeredis
import pytest

from umbel_config.errors import (
    ArtifactTampered,
    ModelNotFound,
    StoreUnavailable,
    VersionExists,
    VersionNotFound,
)
from umbel_registry import ArtifactStore, Catalog, Manifest, resolve
from umbel_registry.keys import model_key, models_key, revision_key

Make = Callable[..., tuple[Path, Manifest]]


@pytest.fixture
def fill(catalog: Catalog, make_manifest: Make) -> dict[str, Manifest]:
    manifests = {
        version: make_manifest(version, content=version.encode())[1]
        for version in ("1", "9", "10", "2")
    }
    for manifest in manifests.values():
        assert catalog.register(manifest)
    return manifests


def test_a_version_is_found_by_name_and_latest_sorts_as_versions(
    catalog: Catalog, fill: dict[str, Manifest]
) -> None:
    assert catalog.get("digits", "9") == fill["9"]
    for version in (None, "latest"):
        assert catalog.get("digits", version) == fill["10"]
    assert catalog.names() == ["digits"]
    assert catalog.versions("digits") == ["1", "2", "9", "10"]
    assert catalog.list() == [fill[version] for version in ("1", "2", "9", "10")]


def test_the_revision_moves_with_every_change_and_with_nothing_else(
    catalog: Catalog, make_manifest: Make
) -> None:
    _, manifest = make_manifest()
    assert catalog.revision() == 0
    assert catalog.register(manifest)
    assert catalog.revision() == 1
    assert not catalog.register(manifest)
    with pytest.raises(VersionExists, match="Choose another version"):
        catalog.register(make_manifest(content=b"other")[1])
    catalog.get("digits")
    assert catalog.revision() == 1
    assert catalog.get("digits") == manifest


def test_an_unknown_model_is_answered_with_what_there_is(
    catalog: Catalog, fill: dict[str, Manifest]
) -> None:
    with pytest.raises(ModelNotFound, match=r"'digit'.*Did you mean 'digits'\? There are: digits"):
        catalog.get("digit")
    with pytest.raises(ModelNotFound, match="There are: digits"):
        catalog.versions("nothing")
    with pytest.raises(VersionNotFound, match=r"no version '11'.*It has: 1, 2, 9, 10\."):
        catalog.get("digits", "11")


def test_an_empty_register_says_how_to_fill_it(catalog: Catalog) -> None:
    with pytest.raises(ModelNotFound, match="umbel models push FOLDER"):
        catalog.get("digits")
    assert catalog.names() == []
    assert catalog.list() == []


def test_a_long_list_is_cut(catalog: Catalog, make_manifest: Make) -> None:
    _, manifest = make_manifest()
    raw = {str(number): manifest.to_json().decode() for number in range(30)}
    with pytest.raises(VersionNotFound, match=r"It has: 10, 11, .*29 and 10 more\."):
        resolve("digits", "missing", raw)


def test_resolving_needs_no_client_and_takes_either_kind_of_reply(make_manifest: Make) -> None:
    _, manifest = make_manifest("3")
    assert resolve("digits", None, {b"3": manifest.to_json()}).manifests == {"3": manifest}
    assert resolve("digits", "3", {"3": manifest.to_json().decode()}).manifests == {"3": manifest}
    with pytest.raises(ModelNotFound, match="Did you mean 'digits'"):
        resolve("digitz", None, {}, known=["digits"])
    with pytest.raises(ArtifactTampered, match="The registered digits 3"):
        resolve("digits", None, {b"3": b"{}"})


def test_a_client_that_decodes_works_too(make_manifest: Make) -> None:
    catalog = Catalog(fakeredis.FakeRedis(decode_responses=True), "test")
    _, manifest = make_manifest()
    catalog.register(manifest)
    catalog.register(manifest)
    assert catalog.get("digits") == manifest
    assert catalog.names() == ["digits"]


def test_the_keys_are_the_documented_ones_and_permanent(make_manifest: Make) -> None:
    redis = fakeredis.FakeRedis()
    Catalog(redis, "ns").register(make_manifest()[1])
    expected = {models_key("ns"), model_key("ns", "digits"), revision_key("ns")}
    assert {key.decode() for key in redis.scan_iter()} == expected
    assert all(redis.ttl(key) == -1 for key in expected)


def test_namespaces_do_not_meet(make_manifest: Make) -> None:
    redis = fakeredis.FakeRedis()
    Catalog(redis, "one").register(make_manifest()[1])
    assert Catalog(redis, "two").names() == []


def test_a_lost_redis_is_rebuilt_from_the_artifacts(
    catalog: Catalog, store: ArtifactStore, make_manifest: Make
) -> None:
    stored = []
    for name, version in (("digits", "1"), ("digits", "2"), ("other", "1")):
        folder, manifest = make_manifest(version, name=name)
        stored.append(store.put(folder, manifest))
    catalog.register(stored[0])
    assert catalog.restore(store) == 2
    assert catalog.list() == stored
    assert catalog.restore(store) == 0


def test_a_bad_artifact_does_not_stop_the_others_from_being_restored(
    catalog: Catalog, store: ArtifactStore, root: Path, make_manifest: Make
) -> None:
    for version in ("1", "2", "3"):
        store.put(*make_manifest(version))
    (root / "digits" / "2" / "manifest.json").write_text("{}")
    with pytest.raises(ArtifactTampered, match=r"2 versions restored, 1 not: .*not a readable"):
        catalog.restore(store)
    assert catalog.versions("digits") == ["1", "3"]


def test_an_unreachable_redis_is_told_as_such(make_manifest: Make) -> None:
    server = fakeredis.FakeServer()
    catalog = Catalog(fakeredis.FakeRedis(server=server), "test")
    server.connected = False
    for call in (
        catalog.names,
        catalog.revision,
        lambda: catalog.get("digits"),
        lambda: catalog.register(make_manifest()[1]),
    ):
        with pytest.raises(StoreUnavailable):
            call()
