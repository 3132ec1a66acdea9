"""Each model is loaded once per process, warm, and from where it is still to be found."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fakeredis
import pytest
import torch
import yaml

from umbel_config.errors import ArtifactTampered, ModelNotFound, VersionNotFound
from umbel_config.settings import Settings
from umbel_registry import ArtifactStore, Catalog, load_model, push
from umbel_registry.loading import HandlerModel
from umbel_worker import models
from umbel_worker.models import ModelCache, kind_of, pick_device, warm_up

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

    monkeypatch.setattr(models, "load_model", counted)
    cache = ModelCache(*site)

    def get(_: int) -> Any:
        start.wait()
        return cache.get("affine@1")

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(get, range(8)))
    assert len(loads) == 1
    assert len({id(model) for model in got}) == 1


def test_catalog_lost_with_redis_is_restored_from_the_artifacts(
    site: Any, store: fakeredis.FakeRedis
) -> None:
    store.flushall()
    assert ModelCache(*site).get("affine@1").manifest.name == "affine"
    assert site[0].versions("affine") == ["1"]


@pytest.mark.parametrize(
    ("lane", "error"), [("other@1", ModelNotFound), ("affine@9", VersionNotFound)]
)
def test_unknown_model_is_a_typed_failure(site: Any, lane: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        ModelCache(*site).get(lane)


def test_changed_artifact_is_refused_each_time(site: Any, tmp_path: Path) -> None:
    (changed,) = (tmp_path / "artifacts").rglob("words.txt")
    changed.chmod(0o644)
    changed.write_text("one too")
    cache = ModelCache(*site)
    for _ in range(2):
        with pytest.raises(ArtifactTampered, match=r"words\.txt"):
            cache.get("affine@1")


def test_load_that_failed_is_tried_again(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ModelCache(*site)

    def away(*_: Any) -> Any:
        raise OSError("away")

    with monkeypatch.context() as broken:
        broken.setattr(models, "load_model", away)
        with pytest.raises(OSError, match="away"):
            cache.get("affine@1")
    assert cache.get("affine@1").manifest.version == "1"


def test_warm_up_runs_one_row_and_a_full_batch(
    handler_model: Callable[..., HandlerModel],
) -> None:
    sizes: list[int] = []

    def forward(rows: list[Any]) -> list[Any]:
        sizes.append(len(rows))
        return rows

    warm_up(handler_model(forward), 8)
    assert sizes == [1, 8]


def test_model_that_dislikes_made_up_rows_still_serves(
    handler_model: Callable[..., HandlerModel], caplog: pytest.LogCaptureFixture
) -> None:
    def forward(rows: list[Any]) -> list[Any]:
        raise ValueError("not in the vocabulary")

    warm_up(handler_model(forward), 8)
    assert "warm-up with 1 rows failed" in caplog.text


def test_model_that_fails_in_full_batches_still_serves(
    handler_model: Callable[..., HandlerModel], caplog: pytest.LogCaptureFixture
) -> None:
    warm_up(handler_model(lambda rows: rows[:4]), 8)
    assert "warm-up with 8 rows failed" in caplog.text


def test_device_is_as_set_or_found() -> None:
    assert pick_device("cuda:1") == "cuda:1"
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") in {"cpu", "cuda"}


def test_devices_with_equal_memory_share_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kind_of("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert kind_of("cuda:1") == "cuda", "nothing runs there, but nothing breaks either"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", {"cuda:1": "NVIDIA H100 80GB"}.get)
    assert kind_of("cuda:1") == "cuda:NVIDIA-H100-80GB"
