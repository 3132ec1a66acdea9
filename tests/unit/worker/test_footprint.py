"""What a model weighs: its tensors once each, or what the process grew by where that tells more."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch

from umbel_registry import Manifest
from umbel_registry.loading import ArrayModel, HandlerModel
from umbel_registry.paths import FileInfo
from umbel_worker import footprint
from umbel_worker.footprint import MB, Scale, give_back, held_bytes, tensor_bytes, watch


class Net(torch.nn.Module):
    """Two layers that share their weights, a buffer, a constant, and a view of the buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(256, 256, bias=False)
        self.second = torch.nn.Linear(256, 256, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("table", torch.zeros(1024))
        self.constant = torch.zeros(512)
        self.view = self.get_buffer("table")[:10]

    def forward(self, x: Any) -> Any:
        return x


NET_BYTES = 4 * (256 * 256 + 1024 + 512)


def test_tensors_count_once_whoever_shares_them(array_model: Callable[..., ArrayModel]) -> None:
    assert tensor_bytes(array_model(Net()), "cpu") == NET_BYTES
    assert tensor_bytes(array_model(Net()), "cuda:0") == 0


def test_tensors_of_a_handler_are_found(handler_model: Callable[..., HandlerModel]) -> None:
    class Tokenizer:
        def __init__(self) -> None:
            self.me, self.words = self, {"a": [1, (torch.zeros(256), "text")]}

    model = handler_model(lambda rows: rows)
    handler: Any = model._forward.__self__  # type: ignore[attr-defined]
    handler.net, handler.tokenizer, handler.nothing = Net(), Tokenizer(), None
    assert tensor_bytes(model, "cpu") == NET_BYTES + 1024


def test_memory_of_a_model_in_a_circle_is_given_back(
    array_model: Callable[..., ArrayModel],
) -> None:
    model = array_model(Net())
    model.circle = model  # type: ignore[attr-defined]
    watched = watch(model)
    del model
    gc.disable()
    try:
        assert all(each() is not None for each in watched[:1])
        give_back(watched)
    finally:
        gc.enable()
    assert not any(each() for each in watched)


def test_the_garbage_collector_is_left_alone_where_nothing_is_left(
    array_model: Callable[..., ArrayModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    def called() -> int:
        pytest.fail("called")

    model = array_model(torch.nn.Linear(2, 2))
    watched = watch(model)
    del model
    monkeypatch.setattr(gc, "collect", called)
    give_back(watched)


def test_resident_memory_is_seen_to_grow() -> None:
    before = held_bytes("cpu")
    held = torch.ones(64 * MB, dtype=torch.uint8)
    assert held_bytes("cpu") - before > 48 * MB
    del held


def test_memory_without_proc_is_the_highest_so_far(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    now = held_bytes("cpu")
    monkeypatch.setattr(footprint, "_STATM", tmp_path / "none")
    assert held_bytes("cpu") > 0.9 * now


@pytest.mark.parametrize("library", [OSError("no such library"), TypeError("no name given")])
def test_a_system_without_malloc_trim_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, library: Exception
) -> None:
    def load(name: None) -> Any:
        raise library

    footprint._malloc_trim.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", load)
    footprint.trim()
    footprint._malloc_trim.cache_clear()


def test_memory_of_a_gpu_is_what_torch_has_allocated_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "memory_allocated", {"cuda:1": 7}.get)
    assert held_bytes("cuda:1") == 7


def manifest_of(model: ArrayModel | HandlerModel, **changes: Any) -> Manifest:
    files = {"model.pt2": FileInfo(sha256="0" * 64, bytes=3 * MB)}
    assert isinstance(model.manifest, Manifest)
    return model.manifest.model_copy(update={"files": files, **changes})


def test_a_model_is_thought_as_large_as_its_files_and_then_as_last_time(
    array_model: Callable[..., ArrayModel],
) -> None:
    scale, model = Scale(), array_model(Net())
    manifest = manifest_of(model)
    assert scale.estimate(manifest) == 3
    assert scale.weigh(manifest, model, 0, quiet=True) == NET_BYTES / MB
    assert scale.estimate(manifest) == NET_BYTES / MB
    assert scale.estimate(manifest_of(model, digest="1" * 64)) == 3


def test_growth_counts_once_the_libraries_of_the_format_are_there(
    array_model: Callable[..., ArrayModel],
) -> None:
    scale, model = Scale(), array_model(Net())
    manifest = manifest_of(model)
    assert scale.weigh(manifest, model, 200 * MB, quiet=True) < 1, "most of that will stay"
    assert scale.weigh(manifest, model, 5 * MB, quiet=True) == 5


def test_growth_while_others_run_tells_nothing(array_model: Callable[..., ArrayModel]) -> None:
    scale, model = Scale(), array_model(Net())
    manifest = manifest_of(model)
    scale.weigh(manifest, model, 0, quiet=True)
    assert scale.weigh(manifest, model, 5 * MB, quiet=True) == 5
    assert scale.weigh(manifest, model, 90 * MB, quiet=False) == 5, "as it was"
    assert scale.weigh(manifest, model, 4 * MB, quiet=True) == 4


def test_of_a_handler_growth_is_better_than_nothing(
    handler_model: Callable[..., HandlerModel],
) -> None:
    scale, model = Scale(), handler_model(lambda rows: rows)
    manifest = manifest_of(model)
    assert scale.weigh(manifest, model, 50 * MB, quiet=False) == 50
    assert scale.weigh(manifest, model, 70 * MB, quiet=False) == 50
    assert scale.weigh(manifest, model, 20 * MB, quiet=True) == 20
