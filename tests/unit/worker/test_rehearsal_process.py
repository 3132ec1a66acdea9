"""The diary of a rehearsal: each forward is written down, and goes on as it would."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from umbel_batching import wire
from umbel_registry import TensorSpec
from umbel_registry.loading import ArrayModel, HandlerModel
from umbel_registry.manifest import ModelFile
from umbel_worker.compute import compute
from umbel_worker.rehearsal_process import _failure_text, _watch

PAYLOADS = [wire.encode(np.full(3, place, np.float32)) for place in range(4)]


class Twice:
    """A handler, and a module, that doubles; refuses a batch that holds the number three."""

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.stack(self.forward(list(batch.numpy()))))

    def forward(self, rows: list[Any]) -> list[Any]:
        if any(row[0] == 3 for row in rows):
            raise ValueError("three")
        return [row * 2 for row in rows]


@pytest.fixture(params=["handler", "torch_export"])
def model(request: pytest.FixtureRequest) -> ArrayModel | HandlerModel:
    handler = request.param == "handler"
    about = ModelFile(
        name="twice",
        format=request.param,
        weights=None if handler else "model.pt2",
        handler="here:Twice" if handler else None,
        inputs={"x": TensorSpec(dtype="float32", shape=(3,))},
        outputs={"y": TensorSpec(dtype="float32", shape=(3,))},
    )
    return HandlerModel(Twice(), about, "cpu") if handler else ArrayModel(Twice(), about, "cpu")


@pytest.fixture
def diary(model: ArrayModel | HandlerModel) -> list[tuple[str, Any]]:
    lines: list[tuple[str, Any]] = []
    _watch(model, lambda what, **more: lines.append((what, more)))
    return lines


def test_a_batch_that_goes_through(
    model: ArrayModel | HandlerModel, diary: list[tuple[str, Any]]
) -> None:
    results = compute(model, PAYLOADS[:3]).results
    assert [_failure_text(each) for each in results] == [None] * 3
    assert wire.decode(results[2])[0] == 4  # type: ignore[arg-type]
    assert diary == [("forward", {}), ("returned", {})]


def test_a_batch_that_raises_is_seen_to_be_run_apart(
    model: ArrayModel | HandlerModel, diary: list[tuple[str, Any]]
) -> None:
    texts = [_failure_text(each) for each in compute(model, PAYLOADS).results]
    assert texts == [None, None, None, "ValueError: three"]
    assert diary[:2] == [("forward", {}), ("raised", {"kind": "ValueError", "message": "three"})]
    assert [what for what, _ in diary].count("raised") == 3
    assert [what for what, _ in diary].count("forward") == 5
