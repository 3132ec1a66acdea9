"""Small models that run in memory, and payloads for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import fakeredis
import pytest

from umbel_batching import wire
from umbel_batching.policy import BatchPolicy
from umbel_registry import Manifest, Signature, TensorSpec
from umbel_registry.loading import ArrayModel, HandlerModel
from umbel_registry.manifest import ModelFile, build_manifest

FLOATS = TensorSpec(dtype="float32", shape=(4,))


def signature(inputs: dict[str, TensorSpec], outputs: dict[str, TensorSpec]) -> Signature:
    return Signature(inputs=inputs, outputs=outputs)


def describe(shape: Signature, **changes: Any) -> Manifest:
    handler = changes.pop("handler", False) or not shape.arrays_only
    how = {"handler": "a:B"} if handler else {"weights": "model.pt2"}
    model = ModelFile.model_validate(
        {
            "name": "digits",
            "format": "handler" if handler else "torch_export",
            "inputs": shape.inputs,
            "outputs": shape.outputs,
            "batching": BatchPolicy(max_batch_size=8),
            **how,
            **changes,
        }
    )
    built = build_manifest(model, {}, "1")
    return built.model_copy(update={"created_at": datetime.now(UTC)})


@pytest.fixture
def array_model() -> Callable[..., ArrayModel]:
    """A model of tensors from a function; four floats to four floats unless told otherwise."""

    def make(
        module: Callable[..., Any],
        inputs: dict[str, TensorSpec] | None = None,
        outputs: dict[str, TensorSpec] | None = None,
    ) -> ArrayModel:
        shape = signature(inputs or {"x": FLOATS}, outputs or {"y": FLOATS})
        return ArrayModel(module, describe(shape), "cpu")

    return make


@pytest.fixture
def handler_model() -> Callable[..., HandlerModel]:
    """A handler from a function over rows."""

    def make(
        forward: Callable[[list[Any]], Any],
        inputs: dict[str, TensorSpec] | None = None,
        outputs: dict[str, TensorSpec] | None = None,
    ) -> HandlerModel:
        shape = signature(inputs or {"x": FLOATS}, outputs or {"y": FLOATS})

        class Handler:
            def forward(self, batch: Any) -> Any:
                return forward(batch)

        return HandlerModel(Handler(), describe(shape, handler=True), "cpu")

    return make


@pytest.fixture
def encoded() -> Callable[[Iterable[Any]], list[bytes]]:
    return lambda rows: [wire.encode(row) for row in rows]


@pytest.fixture
def store() -> fakeredis.FakeRedis:
    return fakeredis.FakeRedis()
