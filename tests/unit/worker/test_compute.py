"""One forward per batch; whoever breaks it fails alone, and nobody else notices."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from umbel_batching import wire
from umbel_batching.record import Failure
from umbel_registry import TensorSpec
from umbel_registry.loading import ArrayModel, HandlerModel
from umbel_worker.compute import compute as compute_whole
from umbel_worker.isolate import Isolation, Result, failure_of

FLOATS = TensorSpec(dtype="float32", shape=(4,))
Encoded = Callable[[Iterable[Any]], list[bytes]]
MakeArray = Callable[..., ArrayModel]
MakeHandler = Callable[..., HandlerModel]


def compute(model: ArrayModel | HandlerModel, payloads: Sequence[bytes]) -> list[Result]:
    """Outcomes alone; what is learned about sizes has a test file of its own."""
    return compute_whole(model, payloads).results


def rows(count: int) -> Any:
    return np.arange(count * 4, dtype=np.float32).reshape(count, 4) + 1


def value(result: Result) -> Any:
    assert not isinstance(result, Failure), result
    return wire.decode(result)


def kind(result: Result) -> str:
    assert isinstance(result, Failure)
    return result.kind


def test_batch_is_one_forward(array_model: MakeArray, encoded: Encoded) -> None:
    sizes = []

    def double(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return x * 2

    results = compute(array_model(double), encoded(rows(64)))
    np.testing.assert_array_equal(np.stack([value(raw) for raw in results]), rows(64) * 2)
    assert sizes == [64]


@pytest.mark.parametrize("guilty", [{0}, {63}, {5, 6}, {1, 20, 40}, set(range(64))])
def test_guilty_jobs_fail_alone_within_k_log_n_forwards(
    array_model: MakeArray, encoded: Encoded, guilty: set[int]
) -> None:
    inputs, forwards = rows(64), 0
    for place in guilty:
        inputs[place, 0] = -1

    def picky(x: torch.Tensor) -> torch.Tensor:
        nonlocal forwards
        forwards += 1
        if bool((x[:, 0] < 0).any()):
            raise ValueError("negative")
        return x * 2

    results = compute(array_model(picky), encoded(inputs))
    for place, result in enumerate(results):
        if place in guilty:
            assert result == Failure("ValueError", "negative")
        else:
            np.testing.assert_array_equal(value(result), inputs[place] * 2)
    assert forwards <= min(2 * 64 - 1, 1 + 2 * len(guilty) * math.log2(64))


def test_model_that_writes_into_its_input_gets_fresh_halves(
    array_model: MakeArray, handler_model: MakeHandler, encoded: Encoded
) -> None:
    """The second try must see what the callers sent, not what the first try left behind."""
    inputs = rows(8)
    inputs[3, 0] = -1

    def careless(x: torch.Tensor) -> torch.Tensor:
        bad = bool((x[:, 0] < 0).any())
        x *= 2
        if bad:
            raise ValueError("negative")
        return x

    def careless_rows(batch: list[Any]) -> list[Any]:
        return list(careless(torch.from_numpy(np.stack(batch))).numpy())

    def careless_lists(batch: list[Any]) -> list[Any]:
        bad = any(row[0] < 0 for row in batch)
        for row in batch:
            row[0] *= 2
        if bad:
            raise ValueError("negative")
        return batch

    json = {"x": TensorSpec(dtype="json")}
    for model, payloads in (
        (array_model(careless), encoded(inputs)),
        (handler_model(careless_rows), encoded(inputs)),
    ):
        results = compute(model, payloads)
        assert kind(results.pop(3)) == "ValueError"
        good = np.delete(inputs, 3, axis=0)
        np.testing.assert_array_equal(np.stack([value(raw) for raw in results]), good * 2)
    listed = handler_model(careless_lists, json, {"y": TensorSpec(dtype="json")})
    results = compute(listed, encoded([[1], [2], [-1], [4]]))
    assert [value(raw) for at, raw in enumerate(results) if at != 2] == [[2], [4], [8]]


def test_wrong_row_count_is_found_and_told(array_model: MakeArray, encoded: Encoded) -> None:
    model = array_model(lambda x: x[x[:, 0] != 5])
    results = compute(model, encoded(rows(4)))
    assert kind(results[1]) == "WrongRowCount"
    assert [isinstance(result, Failure) for result in results] == [False, True, False, False]


def test_unreadable_jobs_stay_out_of_the_batch(array_model: MakeArray, encoded: Encoded) -> None:
    payloads = encoded(rows(4))
    payloads[2] = b"\xc1"
    results = compute(array_model(lambda x: x * 2), payloads)
    assert kind(results[2]) == "MalformedPayload"
    np.testing.assert_array_equal(value(results[3]), rows(4)[3] * 2)
    assert [kind(raw) for raw in compute(array_model(lambda x: x), [b"", b"\xc9"])] == [
        "MalformedPayload"
    ] * 2


def test_nan_in_an_output_costs_one_job(array_model: MakeArray, encoded: Encoded) -> None:
    strict = {"y": FLOATS.model_copy(update={"allow_nan": False})}
    inputs = rows(4)
    inputs[2, 1] = -1
    results = compute(array_model(torch.sqrt, outputs=strict), encoded(inputs))
    assert kind(results[2]) == "NotANumber"
    assert sum(isinstance(result, Failure) for result in results) == 1
    assert np.isnan(value(compute(array_model(torch.sqrt), encoded(inputs))[2])).any()


def test_nan_in_the_padding_costs_nobody(array_model: MakeArray, encoded: Encoded) -> None:
    """Attention over nothing but padding is NaN; only what is returned counts."""
    inputs = {"t": TensorSpec(dtype="float32", shape=(-1,), pad_value=-1)}
    outputs = {"y": TensorSpec(dtype="float32", shape=(-1,), allow_nan=False)}
    values = [np.ones(1, np.float32), np.ones(3, np.float32)]
    results = compute(array_model(torch.sqrt, inputs, outputs), encoded(values))
    for raw, sent in zip(results, values, strict=True):
        np.testing.assert_array_equal(value(raw), sent)


def test_variable_outputs_are_cut_to_their_own_length(
    array_model: MakeArray, encoded: Encoded
) -> None:
    inputs = {"t": TensorSpec(dtype="int64", shape=(-1,), mask="mask")}
    outputs = {
        "tags": TensorSpec(dtype="int64", shape=(-1,)),
        "count": TensorSpec(dtype="int64"),
    }
    model = array_model(lambda t, mask: {"tags": t + 1, "count": mask.sum(1)}, inputs, outputs)
    values = [np.arange(length) for length in (1, 5, 3)]
    for raw, sent in zip(compute(model, encoded(values)), values, strict=True):
        got = value(raw)
        np.testing.assert_array_equal(got["tags"], sent + 1)
        assert got["count"] == len(sent)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool"])
def test_scalar_outputs_are_arrays_whether_one_or_several(
    array_model: MakeArray, encoded: Encoded, dtype: str
) -> None:
    spec = TensorSpec(dtype=dtype)
    kind_of = getattr(torch, dtype)

    def first(x: torch.Tensor) -> torch.Tensor:
        return x[:, 0].to(kind_of)

    one = compute(array_model(first, outputs={"y": spec}), encoded(rows(2)))
    two = compute(
        array_model(lambda x: (first(x), x), outputs={"y": spec, "z": FLOATS}), encoded(rows(2))
    )
    for single, several in zip(one, two, strict=True):
        for got in (value(single), value(several)["y"]):
            assert isinstance(got, np.ndarray)
            assert (got.shape, got.dtype) == ((), np.dtype(dtype))


def test_handler_gets_rows_of_one_kind_whichever_way_they_came(
    handler_model: MakeHandler, encoded: Encoded
) -> None:
    seen: list[type] = []
    scalar = {"x": TensorSpec(dtype="float32")}

    def forward(batch: list[Any]) -> list[Any]:
        seen.extend(type(row) for row in batch)
        return [row * 2 for row in batch]

    model = handler_model(forward, scalar, scalar)
    compute(model, encoded([np.array(1, np.float32), np.array(2, np.float32)]))
    compute(model, [*encoded([np.array(1, np.float32)]), b"\xc1"])
    assert set(seen) == {np.ndarray}


@pytest.mark.parametrize(
    "junk", ["text", None, np.zeros(3, np.float32), object(), np.array(["a"]), {"a": 1}, 2**70]
)
def test_handler_that_returns_junk_for_one_row_costs_one_job(
    handler_model: MakeHandler, encoded: Encoded, junk: Any
) -> None:
    def forward(batch: list[Any]) -> list[Any]:
        return [junk if row[0] == 5 else row for row in batch]

    results = compute(handler_model(forward), encoded(rows(4)))
    assert [isinstance(result, Failure) for result in results] == [False, True, False, False]


class Rude(Exception):
    """Cannot even say what is wrong."""

    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RecursionError("deep"),
        Rude(),
        SystemExit(3),
        ValueError("half a character: \ud800"),
        ValueError("x" * 100_000),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_model_raises_costs_one_job(
    array_model: MakeArray, encoded: Encoded, error: BaseException
) -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        if bool((x[:, 0] == 5).any()):
            raise error
        return x

    results = compute(array_model(forward), encoded(rows(4)))
    assert kind(results[1]) == type(error).__name__
    assert isinstance(results[1], Failure)
    results[1].message.encode()
    assert len(results[1].message) <= 2_000
    assert sum(isinstance(result, Failure) for result in results) == 1


@pytest.mark.parametrize("signal", [KeyboardInterrupt(), SystemExit(-241)], ids=repr)
def test_end_of_the_worker_is_no_failure_of_a_job(signal: BaseException) -> None:
    def interrupted(start: int, end: int) -> Sequence[Result]:
        raise signal

    with pytest.raises(type(signal)):
        Isolation(interrupted, "digits 1").solve(0, 4)


def test_failure_names_the_class_and_the_sentence() -> None:
    assert failure_of(ValueError("bad row")) == Failure("ValueError", "bad row")
