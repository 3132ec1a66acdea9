"""What a failing batch tells: whose fault it is, and how large a batch may be."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch

from umbel_batching import wire
from umbel_batching.record import Failure
from umbel_registry import TensorSpec
from umbel_registry.loading import ArrayModel, HandlerModel
from umbel_worker.compute import compute
from umbel_worker.isolate import Result

FLOATS = TensorSpec(dtype="float32", shape=(4,))
NO_NAN = {"y": FLOATS.model_copy(update={"allow_nan": False})}
GUILTY = -1.0
#: A full batch of the models that ``array_model`` makes.
FULL = 8
Encoded = Callable[[Iterable[Any]], list[bytes]]
MakeArray = Callable[..., ArrayModel]
Forward = Callable[[torch.Tensor], torch.Tensor]


def rows(count: int, guilty: Iterable[int] = ()) -> Any:
    made = np.arange(count * 4, dtype=np.float32).reshape(count, 4) + 1
    made[list(guilty), 0] = GUILTY
    return made


def failures(results: list[Result]) -> dict[int, Failure]:
    return {at: each for at, each in enumerate(results) if isinstance(each, Failure)}


def values(results: list[Result]) -> Any:
    return np.stack([wire.decode(each) for each in results if not isinstance(each, Failure)])


class Room:
    """A model with memory for some rows, which counts its forwards.

    Args:
        most: rows that fit.
        error: what it raises for more.
    """

    def __init__(self, most: int, error: Callable[[], BaseException]) -> None:
        self.most, self.error, self.sizes = most, error, list[int]()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise self.error()
        return x * 2


ERRORS = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory"),
    "python": MemoryError,
    "plain": lambda: RuntimeError("whatever the allocator says"),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize(("most", "ceiling"), [(8, 8), (12, 8), (63, 32), (1, 1), (64, 0)])
def test_largest_batch_that_fits_is_learned(
    array_model: MakeArray, encoded: Encoded, error: Any, most: int, ceiling: int
) -> None:
    room = Room(most, error)
    done = compute(array_model(room), encoded(rows(64)))
    assert failures(done.results) == {}
    np.testing.assert_array_equal(values(done.results), rows(64) * 2)
    assert done.ceiling == ceiling
    asked_twice = bool(ceiling) and error is ERRORS["plain"]
    assert len(room.sizes) == 2 * math.ceil(64 / (ceiling or 64)) - 1 + asked_twice


@pytest.mark.parametrize("size", [2, 64])
def test_an_error_that_comes_once_says_nothing_about_memory(
    array_model: MakeArray, encoded: Encoded, size: int
) -> None:
    sizes: list[int] = []

    def flaky(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        if len(sizes) == 1:
            raise RuntimeError("the feature store hung up")
        return x

    done = compute(array_model(flaky), encoded(rows(size)))
    assert failures(done.results) == {}
    assert done.ceiling == 0, "else all workers would run halves of it for a minute"
    assert sizes == [size, size // 2, size // 2, size]


@pytest.mark.parametrize("guilty", [{0}, {5, 6}, {1, 20, 40}, set(range(64))])
def test_guilty_jobs_say_nothing_about_memory(
    array_model: MakeArray, encoded: Encoded, guilty: set[int]
) -> None:
    def picky(x: torch.Tensor) -> torch.Tensor:
        if bool((x[:, 0] == GUILTY).any()):
            raise RuntimeError("negative")
        return x

    done = compute(array_model(picky), encoded(rows(64, guilty)))
    assert set(failures(done.results)) == guilty
    assert done.ceiling == 0


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_a_guilty_job_in_a_batch_that_is_too_large(
    array_model: MakeArray, encoded: Encoded, error: Any
) -> None:
    room = Room(16, error)

    def both(x: torch.Tensor) -> torch.Tensor:
        out = room(x)
        if bool((x[:, 0] == GUILTY).any()):
            raise ValueError("negative")
        return out

    done = compute(array_model(both), encoded(rows(64, {3})))
    assert failures(done.results) == {3: Failure("ValueError", "negative")}
    assert done.ceiling == 16


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_input_that_fills_the_memory_alone_fails_alone(
    array_model: MakeArray, encoded: Encoded, *, wrapped: bool
) -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        if not bool((x[:, 0] == GUILTY).any()):
            return x
        try:
            raise torch.OutOfMemoryError("tried to allocate 80 GiB")
        except torch.OutOfMemoryError as error:
            if wrapped:
                raise RuntimeError("layer 3 failed") from error
            raise

    done = compute(array_model(forward), encoded(rows(64, {9})))
    ((place, failure),) = failures(done.results).items()
    assert place == 9
    assert failure.kind == ("RuntimeError" if wrapped else "OutOfMemoryError")
    assert failure.message.startswith("This input alone does not fit into the memory")
    assert "digits 1" in failure.message
    assert done.ceiling == 0, "the other 63 fit side by side"


@pytest.mark.parametrize(
    ("known", "size", "most", "news"),
    [
        (0, FULL, FULL, 0),
        (2, 2, FULL, 0),
        (2, 1, FULL, 0),
        (2, 4, FULL, 4),
        (4, FULL, FULL, -1),
        (2, 4, 2, 2),
        (4, 4, 2, 2),
        (0, 4, 0, 0),
    ],
)
def test_news_about_a_ceiling_that_was_known(
    array_model: MakeArray, encoded: Encoded, known: int, size: int, most: int, news: int
) -> None:
    """Above it a batch that went through raises it; a full one abolishes it."""
    room = Room(most, lambda: torch.OutOfMemoryError("CUDA out of memory"))
    assert compute(array_model(room), encoded(rows(size)), known).ceiling == news


def test_failed_batch_is_let_go_before_its_halves_run(
    array_model: MakeArray, encoded: Encoded
) -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def forward(x: torch.Tensor) -> torch.Tensor:
        assert all(each() is None for each in held), "the memory of the failed batch is still held"
        activations = x * 2
        held.append(weakref.ref(activations))
        if len(x) > 2:
            kept = torch.OutOfMemoryError("CUDA out of memory")  # a cycle: error, frame, error
            raise kept
        return x * 2

    assert failures(compute(array_model(forward), encoded(rows(8))).results) == {}
    assert len(held) == 7


def counted(forward: Forward, sizes: list[int]) -> Forward:
    def run(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return forward(x)

    return run


@pytest.mark.parametrize(
    ("forward", "got"),
    [
        (lambda x: x.mean(0, keepdim=True), 1),
        (lambda x: x[:-1], 63),
        (lambda x: x[:4], 4),
        (lambda x: x[:0], 0),
        (lambda x: torch.cat([x, x]), 128),
    ],
    ids=["pools", "drops one", "truncates", "returns none", "doubles"],
)
def test_model_with_a_wrong_row_count_is_named_at_once(
    array_model: MakeArray, encoded: Encoded, forward: Forward, got: int
) -> None:
    sizes: list[int] = []
    done = compute(array_model(counted(forward, sizes)), encoded(rows(64)))
    assert sizes == [64, 32, 32]
    assert len(failures(done.results)) == 64
    (message,) = {failure.message for failure in failures(done.results).values()}
    assert f"digits 1 returned {got} rows for a batch of 64: a fault of the model" in message
    assert done.ceiling == 0


@pytest.mark.parametrize("guilty", [{0}, {1, 40}, {0, 1, 2}, {0, 1, 2, 3, 32, 33, 34}])
def test_inputs_that_lose_their_row_fail_alone(
    array_model: MakeArray, encoded: Encoded, guilty: set[int]
) -> None:
    sizes: list[int] = []
    forward = counted(lambda x: x[x[:, 0] != GUILTY], sizes)
    done = compute(array_model(forward), encoded(rows(64, guilty)))
    assert set(failures(done.results)) == guilty
    assert {failure.kind for failure in failures(done.results).values()} == {"WrongRowCount"}
    assert len(sizes) <= 1 + 2 * len(guilty) * math.log2(64)


def test_a_single_job_with_a_wrong_row_count_says_so(
    array_model: MakeArray, encoded: Encoded
) -> None:
    done = compute(array_model(lambda x: x[:0]), encoded(rows(1)))
    assert failures(done.results)[0].message.startswith(
        "digits 1 returned 0 rows for this input alone."
    )


def test_a_model_that_takes_few_rows_still_serves(array_model: MakeArray, encoded: Encoded) -> None:
    done = compute(array_model(lambda x: x[:4]), encoded(rows(8)))
    assert failures(done.results) == {}
    assert done.ceiling == 0


def test_nan_that_spoils_its_neighbours_costs_one_job(
    array_model: MakeArray, encoded: Encoded
) -> None:
    """Where a model looks at its batch as a whole, one NaN is everybody's."""
    sizes: list[int] = []

    def centred(x: torch.Tensor) -> torch.Tensor:
        roots = torch.sqrt(x)
        return roots - roots.mean(0)

    model = array_model(counted(centred, sizes), outputs=NO_NAN)
    done = compute(model, encoded(rows(64, {9})))
    assert set(failures(done.results)) == {9}
    assert failures(done.results)[9].kind == "NotANumber"
    assert len(sizes) <= 1 + 2 * math.log2(64)
    assert done.ceiling == 0


def test_nan_spread_over_both_of_two_inputs_is_nobodys_fault(
    array_model: MakeArray, encoded: Encoded
) -> None:
    """Neither is NaN alone, and neither says that two do not fit into memory."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        return x if len(x) == 1 else x * float("nan")

    done = compute(array_model(forward, outputs=NO_NAN), encoded(rows(2)))
    assert failures(done.results) == {}
    assert done.ceiling == 0


def test_handlers_learn_their_ceiling_too(
    handler_model: Callable[..., HandlerModel], encoded: Encoded
) -> None:
    def forward(batch: list[Any]) -> list[Any]:
        if len(batch) > 3:
            raise MemoryError
        return batch

    done = compute(handler_model(forward), encoded(rows(8)))
    assert (failures(done.results), done.ceiling) == ({}, 2)
