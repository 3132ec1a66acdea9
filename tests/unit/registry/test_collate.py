"""Rows become batches, and signatures become rows to try a model with."""

from __future__ import annotations

import numpy as np
import pytest

from umbel_registry import Signature, TensorSpec, collate, example_inputs
from umbel_registry.collate import cut_back

Y = {"y": TensorSpec(dtype="float32")}


def test_fixed_rows_are_stacked_in_order() -> None:
    signature = Signature(
        inputs={"b": TensorSpec(dtype="int64"), "a": TensorSpec(dtype="float32", shape=(2,))},
        outputs=Y,
    )
    rows = signature.validate_rows([{"a": [1, 2], "b": 3}, {"a": [4, 5], "b": 6}])
    batch = collate(signature, rows)
    assert list(batch) == ["b", "a"]
    assert batch["b"].tolist() == [3, 6]
    assert batch["a"].tolist() == [[1.0, 2.0], [4.0, 5.0]]


def test_two_variable_axes_are_padded_and_masked() -> None:
    spec = TensorSpec(dtype="int8", shape=(-1, 2, -1), mask="m", pad_value=-1)
    signature = Signature(inputs={"x": spec}, outputs=Y)
    rows = signature.validate_rows([np.ones((1, 2, 3), np.int8), np.ones((2, 2, 1), np.int8)])
    batch = collate(signature, rows)
    assert list(batch) == ["x", "m"]
    assert batch["x"].shape == (2, 2, 2, 3)
    assert batch["x"].dtype == np.int8
    assert batch["m"].tolist() == [
        [[True, True, True], [False, False, False]],
        [[True, False, False], [True, False, False]],
    ]
    assert (batch["x"] == np.where(batch["m"][:, :, None, :], 1, -1)).all()


@pytest.mark.parametrize("dtype", ["bool", "int32", "uint8", "float16", "complex64", "string"])
def test_examples_fit_their_signature(dtype: str) -> None:
    shape = [] if dtype == "string" else [3, -1]
    spec = TensorSpec.model_validate({"dtype": dtype, "shape": shape})
    signature = Signature(inputs={"x": spec, "z": TensorSpec(dtype="bytes")}, outputs=Y)
    rows = example_inputs(signature, 3, {"x": 5, "z": 1})
    assert len(rows) == 3
    assert signature.validate_rows(rows)[0].keys() == {"x", "z"}
    if shape:
        assert rows[0]["x"].shape == (3, 5)


def test_examples_are_the_same_every_time(signature: Signature) -> None:
    first, second = example_inputs(signature, 2), example_inputs(signature, 2)
    np.testing.assert_array_equal(np.stack(first), np.stack(second))


def test_outputs_are_cut_back_to_the_length_of_their_own_input() -> None:
    outputs = {
        "tags": TensorSpec(dtype="float32", shape=(-1,)),
        "map": TensorSpec(dtype="float32", shape=(2, -1, -1)),
        "score": TensorSpec(dtype="float32", shape=(4,)),
    }
    inputs = {
        "fixed": TensorSpec(dtype="float32", shape=(9,)),
        "x": TensorSpec(dtype="float32", shape=(3, -1)),
    }
    row = {"fixed": np.zeros(9), "x": np.zeros((3, 5))}
    padded = {"tags": np.arange(8), "map": np.zeros((2, 8, 8)), "score": np.arange(4)}
    cut = cut_back(Signature(inputs=inputs, outputs=outputs), row, padded)
    assert {name: value.shape for name, value in cut.items()} == {
        "tags": (5,),
        "map": (2, 5, 8),
        "score": (4,),
    }
    alone = Signature(inputs={"x": inputs["x"]}, outputs=outputs)
    assert cut_back(alone, row["x"], padded)["tags"].tolist() == [0, 1, 2, 3, 4]
    fixed = Signature(inputs={"x": inputs["fixed"]}, outputs=outputs)
    assert cut_back(fixed, row["fixed"], padded) == padded
