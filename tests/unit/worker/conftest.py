"""Small models that run in memory, payloads for them, and a drainer that has no Redis server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import fakeredis
import numpy as np
import pytest

from umbel_batching import wire
from umbel_batching.calls import Calls
from umbel_batching.keys import lane_keys
from umbel_batching.lanes import Lane, new_uid
from umbel_batching.length import code_of
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import NO_REPLY, State, tail
from umbel_batching.scripts import Runner
from umbel_batching.values import NewJob
from umbel_registry import Manifest, Signature, TensorSpec
from umbel_registry.figures import Tallies
from umbel_registry.loading import ArrayModel, HandlerModel
from umbel_registry.manifest import ModelFile, build_manifest
from umbel_worker.board import Board
from umbel_worker.drain import Drainer
from umbel_worker.idle import Idle
from umbel_worker.leases import LeaseKeeper
from umbel_worker.mirror import Mirror
from umbel_worker.observer import Observer

FLOATS = TensorSpec(dtype="float32", shape=(4,))
ROW = np.arange(4, dtype=np.float32)


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


class Models:
    """Stands where the cache of loaded models does."""

    def __init__(self, lane: Lane, get: Callable[[], Any]) -> None:
        self._lane, self._get, self.users = lane, get, 0

    @contextmanager
    def using(self, name: str) -> Iterator[Any]:
        assert name == self._lane.name
        model = self._get()
        self.users += 1
        try:
            yield model
        finally:
            self.users -= 1

    def timings(self, name: str) -> tuple[Any, ...]:
        assert name == self._lane.name
        return ()


class Bench:
    """A drainer on a fake Redis, and the jobs of one lane."""

    def __init__(self, store: fakeredis.FakeRedis, get: Callable[[], Any]) -> None:
        policy = BatchPolicy(max_batch_size=4, max_wait_ms=0)
        self.lane = Lane(model="digits", version="1", policy=policy)
        self.store, self.keys = store, lane_keys("t", self.lane.slot)
        self.runner, self.calls, self.stopping = Runner(store), Calls("t"), threading.Event()
        self.leases = LeaseKeeper(self.runner, self.calls, 60_000)
        self.models, self.tallies = Models(self.lane, get), Tallies()
        board = Board(store, "t")
        mirror = Mirror(self.runner, self.calls, board)
        self.drainer = Drainer(
            runner=self.runner,
            calls=self.calls,
            copies=self.calls,
            models=self.models,  # type: ignore[arg-type]
            leases=self.leases,
            board=board,
            observer=Observer(self.runner, self.calls, board, mirror, self.tallies),
            worker="w1",
            lease_ms=60_000,
            budget_s=30,
            idle=Idle(store, "t", 0),
            stopping=self.stopping,
        )

    def submit_sized(self, values: Sequence[Any]) -> None:
        """Jobs that say how long they are, in one call."""
        codes = [code_of(len(value)) for value in values]
        jobs = [
            NewJob(new_uid(), tail(NO_REPLY, b"", length=code) + wire.encode(value))
            for value, code in zip(values, codes, strict=True)
        ]
        self.runner.run(self.calls.submit(self.lane, jobs))

    def submit(self, count: int, reply: str = NO_REPLY) -> list[str]:
        jobs = [NewJob(new_uid(), tail(reply, b"") + wire.encode(ROW + at)) for at in range(count)]
        self.runner.run(self.calls.submit(self.lane, jobs))
        return [job.uid for job in jobs]

    def send(self) -> str:
        """Has the flusher note a drain as sent."""
        token = new_uid()
        call = self.calls.flush(self.lane.slot, slots=1, patience_ms=60_000, tokens=[token])
        assert self.runner.run(call).sent == 1
        return token

    def states(self, uids: list[str]) -> list[State | None]:
        return self.runner.run(self.calls.states(self.lane.slot, uids))

    def count(self, what: str) -> int:
        return int(self.store.zcard(getattr(self.keys, what)))


@pytest.fixture
def bench(store: fakeredis.FakeRedis) -> Iterator[Callable[[Callable[[], Any]], Bench]]:
    made: list[Bench] = []

    def make(get: Callable[[], Any]) -> Bench:
        made.append(Bench(store, get))
        return made[-1]

    yield make
    for one in made:
        one.leases.stop()


@pytest.fixture
def double(array_model: Callable[..., ArrayModel]) -> ArrayModel:
    return array_model(lambda x: x * 2)
