"""Payloads become what the model takes; one that cannot be read is left out alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from umbel_registry import Signature, TensorSpec
from umbel_registry.figures import Cells
from umbel_worker.gather import gather

FLOATS = TensorSpec(dtype="float32", shape=(4,))
Encoded = Callable[[Iterable[Any]], list[bytes]]


def make(**inputs: TensorSpec) -> Signature:
    return Signature(inputs=inputs, outputs={"y": FLOATS})


def rows(count: int) -> Any:
    return np.arange(count * 4, dtype=np.float32).reshape(count, 4)


def test_equal_arrays_are_joined(encoded: Encoded) -> None:
    gathered = gather(make(x=FLOATS), [memoryview(raw) for raw in encoded(rows(5))])
    assert gathered.rows is None
    assert gathered.refused == {}
    assert gathered.batch is not None
    np.testing.assert_array_equal(gathered.batch["x"], rows(5))
    assert gathered.batch["x"].flags.writeable


@pytest.mark.parametrize("bad", [b"", b"\xc1", b"\xc9", b"garbage"])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_unreadable_payload_is_left_out_alone(encoded: Encoded, bad: bytes, place: int) -> None:
    payloads = encoded(rows(5))
    payloads[place] = bad
    gathered = gather(make(x=FLOATS), payloads)
    others = [at for at in range(5) if at != place]
    assert gathered.places == others
    assert gathered.refused[place].kind == "MalformedPayload"
    assert gathered.batch is not None
    np.testing.assert_array_equal(gathered.batch["x"], rows(5)[others])


@pytest.mark.parametrize(
    "odd", [np.zeros(3, np.float32), np.zeros(4), np.zeros((1, 4), np.float32), "text", {"x": 1}]
)
def test_value_of_another_shape_or_type_is_left_out_alone(encoded: Encoded, odd: Any) -> None:
    gathered = gather(make(x=FLOATS), encoded([*rows(2), odd, *rows(2)]))
    assert gathered.places == [0, 1, 3, 4]
    assert gathered.refused[2].kind == "InvalidInput"


def test_all_of_one_wrong_shape_are_all_refused(encoded: Encoded) -> None:
    gathered = gather(make(x=FLOATS), encoded(np.zeros((3, 5), np.float32)))
    assert sorted(gathered.refused) == [0, 1, 2]
    assert gathered.places == []
    assert gathered.batch is None


def test_nan_is_refused_where_the_signature_says_so(encoded: Encoded) -> None:
    inputs = rows(3)
    inputs[1, 2] = np.nan
    strict = make(x=FLOATS.model_copy(update={"allow_nan": False}))
    assert list(gather(strict, encoded(inputs)).refused) == [1]
    assert gather(make(x=FLOATS), encoded(inputs)).refused == {}


def test_several_inputs_are_collated_by_name(encoded: Encoded) -> None:
    values = [{"a": row, "b": row + 1} for row in rows(3)]
    gathered = gather(make(a=FLOATS, b=FLOATS), encoded([*values, {"a": rows(1)[0]}]))
    assert gathered.batch is not None
    np.testing.assert_array_equal(gathered.batch["a"], rows(3))
    np.testing.assert_array_equal(gathered.batch["b"], rows(3) + 1)
    assert list(gathered.refused) == [3]


def test_variable_lengths_are_padded_with_masks(encoded: Encoded) -> None:
    spec = TensorSpec(dtype="int64", shape=(-1,), pad_value=9, mask="mask")
    gathered = gather(make(t=spec), encoded([np.array([1]), np.array([1, 2, 3])]))
    assert gathered.batch is not None
    np.testing.assert_array_equal(gathered.batch["t"], [[1, 9, 9], [1, 2, 3]])
    np.testing.assert_array_equal(gathered.batch["mask"], [[True, False, False], [True] * 3])
    assert gathered.cells == Cells(real=4, padded=2)


def test_only_inputs_of_variable_length_are_counted(encoded: Encoded) -> None:
    two = make(t=TensorSpec(dtype="int64", shape=(-1, 2)), x=FLOATS)
    values = [{"t": np.ones((length, 2), np.int64), "x": rows(1)[0]} for length in (1, 3)]
    assert gather(two, encoded(values)).cells == Cells(real=8, padded=4)
    assert gather(make(x=FLOATS), encoded(rows(3))).cells == Cells()


def test_handler_gets_rows_as_they_are(encoded: Encoded) -> None:
    gathered = gather(make(t=TensorSpec(dtype="string")), encoded(["a", 5, "ä"]))
    assert gathered.batch is None
    assert gathered.rows == ["a", "ä"]
    assert list(gathered.refused) == [1]
