"""Warming up before the first job, and where a model is to run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from umbel_registry.loading import HandlerModel
from umbel_worker.warmup import kind_of, pick_device, warm_up


def test_warm_up_runs_one_row_and_a_full_batch(
    handler_model: Callable[..., HandlerModel],
) -> None:
    sizes: list[int] = []

    def forward(rows: list[Any]) -> list[Any]:
        sizes.append(len(rows))
        return rows

    warm_up(handler_model(forward), 8)
    assert sizes == [1, 8]


def test_warming_up_tells_what_the_second_run_of_each_size_took(
    handler_model: Callable[..., HandlerModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, runs = [0.0], list[int]()

    def forward(rows: list[Any]) -> list[Any]:
        now[0] += 0.5 if len(rows) not in runs else 0.002 * len(rows)
        runs.append(len(rows))
        return rows

    monkeypatch.setattr("umbel_worker.warmup.time.perf_counter", lambda: now[0])
    timings = warm_up(handler_model(forward), 8, again=True)
    assert runs == [1, 1, 8, 8]
    assert [(point.size, round(point.ms, 3)) for point in timings] == [(1, 2.0), (8, 16.0)]
    assert len(warm_up(handler_model(lambda rows: rows[:4]), 8)) == 1, "what failed is left out"


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
