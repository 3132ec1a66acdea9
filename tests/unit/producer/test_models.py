"""The client's picture of the registry is fresh within a second, and never older than it says."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import fakeredis
import pytest

from umbel import _models
from umbel._models import WayCache, find
from umbel_batching.identity import identify
from umbel_config.errors import ModelNotFound, VersionNotFound
from umbel_registry import Catalog, ModelFile, TensorSpec
from umbel_registry.manifest import Manifest, build_manifest
from umbel_registry.paths import FileInfo


@pytest.fixture
def client() -> fakeredis.FakeRedis:
    return fakeredis.FakeRedis()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [1000.0]
    monkeypatch.setattr(_models, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


def manifest(version: str, name: str = "digits") -> Manifest:
    model = ModelFile.model_validate(
        {
            "name": name,
            "format": "torch_export",
            "weights": "model.pt2",
            "inputs": {"x": TensorSpec(dtype="float32", shape=(4,))},
            "outputs": {"y": TensorSpec(dtype="float32")},
        }
    )
    files = {"model.pt2": FileInfo(bytes=1, sha256=version.zfill(64))}
    return build_manifest(model, files, version)


def test_latest_follows_the_registry_once_a_second_has_passed(
    client: fakeredis.FakeRedis, clock: Callable[[float], None]
) -> None:
    catalog, cache = Catalog(client, "t"), WayCache()
    catalog.register(manifest("1"))
    assert find(client, "t", cache, "digits", None).main.lane.name == "digits@1"
    catalog.register(manifest("2"))
    known = cache.get("digits", None)
    assert known is not None
    assert known.main.lane.name == "digits@1"
    clock(_models.FRESH_S + 0.1)
    assert cache.get("digits", None) is None
    assert find(client, "t", cache, "digits", None).main.lane.name == "digits@2"


def test_registry_that_counts_from_the_start_again_after_a_data_loss_is_read_anew(
    client: fakeredis.FakeRedis, clock: Callable[[float], None]
) -> None:
    """Both stores are at revision 1, so the identity of the store must tell them apart."""
    cache = WayCache()
    identify(client, "t")
    Catalog(client, "t").register(manifest("1"))
    before = find(client, "t", cache, "digits", None)
    client.flushall()
    identify(client, "t")
    Catalog(client, "t").register(manifest("2"))
    clock(_models.FRESH_S + 0.1)
    assert find(client, "t", cache, "digits", None).main.lane.name == "digits@2"
    assert before.main.lane.name == "digits@1"


def test_cleared_cache_knows_nothing(client: fakeredis.FakeRedis) -> None:
    cache = WayCache()
    Catalog(client, "t").register(manifest("1"))
    find(client, "t", cache, "digits", None)
    assert cache.get("digits", None) is not None
    cache.clear()
    assert cache.get("digits", None) is None
    assert cache.known("digits", None) is None


def test_unmoved_registry_is_asked_for_its_revision_only(
    client: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog, cache = Catalog(client, "t"), WayCache()
    catalog.register(manifest("1"))
    first = find(client, "t", cache, "digits", "1")

    def refuse(*_: Any) -> Any:
        raise AssertionError("the manifests were read again")

    monkeypatch.setattr(_models, "_about", refuse)
    assert find(client, "t", cache, "digits", "1") is first


def test_way_read_before_the_registry_moved_is_not_kept(
    client: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow thread must not put an old way back after a quick one saw the new revision."""
    catalog, cache = Catalog(client, "t"), WayCache()
    catalog.register(manifest("1"))
    about = _models._about

    class Slow:
        def __init__(self, *where: Any) -> None:
            self._old = about(*where).execute()

        def execute(self) -> Any:
            monkeypatch.setattr(_models, "_about", about)
            catalog.register(manifest("2"))
            find(client, "t", cache, "digits", "2")
            return self._old

    monkeypatch.setattr(_models, "_about", Slow)
    assert find(client, "t", cache, "digits", None).main.lane.name == "digits@1"
    assert find(client, "t", cache, "digits", None).main.lane.name == "digits@2"


def test_unknown_names_are_refused_with_a_hint(client: fakeredis.FakeRedis) -> None:
    catalog, cache = Catalog(client, "t"), WayCache()
    catalog.register(manifest("1"))
    with pytest.raises(ModelNotFound, match="Did you mean 'digits'"):
        find(client, "t", cache, "digit", None)
    with pytest.raises(VersionNotFound, match="It has: 1"):
        find(client, "t", cache, "digits", "7")
    assert cache.known("digit", None) is None
