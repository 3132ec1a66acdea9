"""Rows to try a model with differ in all that a batch could mix up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from umbel_registry import Signature, TensorSpec
from umbel_registry.trials import MAGNITUDE, make_trial, padded_rows

Y = {"y": TensorSpec(dtype="float32")}


def signature(**inputs: TensorSpec) -> Signature:
    return Signature(inputs=inputs, outputs=Y)


@pytest.mark.parametrize(
    ("most", "samples", "neighbours"), [(1, 2, 1), (3, 2, 1), (4, 2, 2), (6, 3, 3), (512, 4, 4)]
)
def test_no_batch_is_larger_than_the_policy_allows_or_than_eight(
    most: int, samples: int, neighbours: int
) -> None:
    made = make_trial(signature(x=TensorSpec(dtype="float32", shape=(2,))), (), most)
    assert (len(made.samples), len(made.neighbours)) == (samples, neighbours)
    assert len(made.copies) == neighbours


def test_made_up_samples_differ_in_values_lengths_and_texts() -> None:
    floats = TensorSpec(dtype="float32", shape=(-1, 2))
    rows = make_trial(signature(x=floats), (), 64).samples
    assert [row.shape for row in rows] == [(8, 2), (13, 2), (8, 2), (13, 2)]
    assert padded_rows(signature(x=floats), rows) == [True, False, True, False]
    for dtype in ("string", "bytes", "json"):
        texts = make_trial(signature(x=TensorSpec.model_validate({"dtype": dtype})), (), 64).samples
        assert len(set(texts)) == 4
        assert all(texts)


def test_neighbours_are_longer_and_larger_and_fit_the_signature() -> None:
    takes = signature(
        tokens=TensorSpec(dtype="int64", shape=(-1,), mask="mask"),
        image=TensorSpec(dtype="float16", shape=(3, -1, -1)),
        scale=TensorSpec(dtype="float64"),
        note=TensorSpec(dtype="string"),
    )
    row = takes.validate_input(
        {
            "tokens": np.arange(20),
            "image": np.full((3, 2, 5), 30_000, np.float16),
            "scale": np.array(-2.0),
            "note": "as it is",
        }
    )
    made = make_trial(takes, [row], 8)
    for neighbour in made.neighbours:
        assert takes.validate_input(neighbour)["note"] == "as it is"
        assert neighbour["tokens"].tolist() == [*range(20), *range(8)]
        assert neighbour["image"].shape == (3, 4, 10)
        assert np.isinf(neighbour["image"]).all()
        assert neighbour["scale"] == -2.0 * MAGNITUDE
    assert made.likeness == "longer rows with values 16 times as large"
    assert padded_rows(takes, [*made.neighbours, *made.samples]) == [False] * 4 + [True] * 2


def test_examples_come_first_and_one_alone_gets_company() -> None:
    takes = signature(x=TensorSpec(dtype="int64", shape=(1,)))
    examples: list[Any] = [np.array([place]) for place in range(9)]
    made = make_trial(takes, examples, 64)
    assert [int(row[0]) for row in made.samples] == [0, 1, 2, 3]
    assert [int(row[0]) for row in made.copies] == [3, 2, 1, 0]
    assert made.likeness == "other rows"
    assert len(make_trial(takes, examples[:1], 64).samples) == 2
