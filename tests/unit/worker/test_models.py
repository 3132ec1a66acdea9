"""Each model is loaded once per process, warm, and from where it is still to be found."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fakeredis
import pytest
import yaml

from umbel_config.errors import (
    ArtifactTampered,
    ModelNotFound,
    ModelUnavailable,
    VersionNotFound,
)
from umbel_config.settings import Settings
from umbel_registry import ArtifactStore, Catalog, load_model, push
from umbel_registry.keys import loads_key
from umbel_registry.loads import Loads
from umbel_worker import warmup
from umbel_worker.models import ModelCache

HANDLERS = Path(__file__).parents[2] / "handlers"
MODULE = "umbel_test_handlers"


@pytest.fixture
def site(
    tmp_path: Path, store: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> tuple[Catalog, ArtifactStore, Settings]:
    """A registry with one model, ``affine`` 1."""
    monkeypatch.syspath_prepend(HANDLERS)
    floats = {"dtype": "float32", "shape": [4]}
    content = {
        "name": "affine",
        "format": "handler",
        "handler": f"{MODULE}:Affine",
        "inputs": {"x": floats},
        "outputs": {"y": floats},
        "files": ["words.txt"],
    }
    folder = tmp_path / "affine"
    folder.mkdir()
    (folder / "words.txt").write_text("one two")
    (folder / "model.yaml").write_text(yaml.safe_dump(content))
    catalog, artifacts = Catalog(store, "t"), ArtifactStore(tmp_path / "artifacts")
    push(folder, catalog=catalog, store=artifacts, allowed_modules=(MODULE,))
    return catalog, artifacts, Settings(state_dir=tmp_path / "state", allowed_modules=(MODULE,))


def test_model_is_loaded_once_however_many_ask_at_once(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads, start = [], threading.Barrier(8)

    def counted(*arguments: Any) -> Any:
        loads.append(arguments)
        return load_model(*arguments)

    monkeypatch.setattr(warmup, "load_model", counted)
    cache = ModelCache(*site)

    def get(_: int) -> Any:
        start.wait()
        with cache.using("affine@1") as model:
            return model

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(get, range(8)))
    assert len(loads) == 1
    assert len({id(model) for model in got}) == 1


def test_catalog_lost_with_redis_is_restored_from_the_artifacts(
    site: Any, store: fakeredis.FakeRedis
) -> None:
    store.flushall()
    with ModelCache(*site).using("affine@1") as model:
        assert model.manifest.name == "affine"
    assert site[0].versions("affine") == ["1"]


@pytest.mark.parametrize(
    ("lane", "error"), [("other@1", ModelNotFound), ("affine@9", VersionNotFound)]
)
def test_unknown_model_is_a_typed_failure(site: Any, lane: str, error: type[Exception]) -> None:
    with pytest.raises(error), ModelCache(*site).using(lane):
        pass


def test_changed_artifact_is_refused_each_time(site: Any, tmp_path: Path) -> None:
    (changed,) = (tmp_path / "artifacts").rglob("words.txt")
    changed.chmod(0o644)
    changed.write_text("one too")
    cache = ModelCache(*site)
    for _ in range(2):
        with pytest.raises(ArtifactTampered, match=r"words\.txt"), cache.using("affine@1"):
            pass


def test_load_that_failed_is_tried_again(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ModelCache(*site)

    def away(*_: Any) -> Any:
        raise OSError("away")

    with monkeypatch.context() as broken:
        broken.setattr(warmup, "load_model", away)
        with pytest.raises(OSError, match="away"), cache.using("affine@1"):
            pass
    with cache.using("affine@1") as model:
        assert model.manifest.version == "1"


def test_what_is_held_is_told_with_times_and_size(site: Any) -> None:
    cache = ModelCache(*site)
    assert cache.preload("affine@1")
    (held,) = cache.holdings()
    assert (held.name, held.state, held.device, held.error) == ("affine@1", "ready", "cpu", "")
    assert held.digest == site[0].get("affine", "1").digest
    assert held.load_s > 0
    assert held.warm_s > 0
    assert held.mb >= 0
    assert held.used_ms == 0
    with cache.using("affine@1"):
        assert cache.holdings()[0].used_ms >= held.since_ms


def test_failure_is_told_until_the_model_is_loaded(site: Any, tmp_path: Path) -> None:
    (words,) = (tmp_path / "artifacts").rglob("words.txt")
    words.chmod(0o644)
    words.write_text("one too")
    cache = ModelCache(*site)
    with pytest.raises(ArtifactTampered):
        cache.preload("affine@1")
    (held,) = cache.holdings()
    assert (held.state, held.mb) == ("failed", 0)
    assert held.error.startswith("ArtifactTampered: ")
    words.write_text("one two")
    assert cache.preload("affine@1")
    assert [(each.state, each.error) for each in cache.holdings()] == [("ready", "")]


def test_a_load_ahead_is_noted_while_it_lasts_and_refused_where_it_killed(
    site: Any, store: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[int] = []

    def counted(*arguments: Any) -> Any:
        noted.append(store.hlen(loads_key("t", "host")))
        return load_model(*arguments)

    monkeypatch.setattr(warmup, "load_model", counted)
    cache = ModelCache(*site, loads=Loads(store, "t", "host:1"))
    assert cache.preload("affine@1")
    assert noted == [1]
    assert store.hlen(loads_key("t", "host")) == 0
    assert cache.unload("affine@1")
    Loads(store, "t", "host:2").begin("affine@1", ahead=True)  # that process is not there
    with pytest.raises(ModelUnavailable, match="ended a process"):
        cache.preload("affine@1")
    (held,) = cache.holdings()
    assert (held.state, held.digest) == ("failed", site[0].get("affine", "1").digest)
    assert noted == [1], "not tried"
    with cache.using("affine@1"):
        assert noted == [1, 2], "but for a job that needs it"
    assert store.hlen(loads_key("t", "host")) == 0, "and then nobody fears it any more"
