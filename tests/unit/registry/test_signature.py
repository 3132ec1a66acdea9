"""Inputs are checked before they are queued, and each refusal is a sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from umbel_config.errors import InvalidInput
from umbel_registry import Signature, TensorSpec

Y = {"y": TensorSpec(dtype="float32")}


def one(dtype: str, shape: tuple[int, ...] = (), **options: Any) -> Signature:
    spec = TensorSpec.model_validate({"dtype": dtype, "shape": shape, **options})
    return Signature(inputs={"x": spec}, outputs=Y)


def test_an_array_that_fits_is_returned_as_it_is() -> None:
    array = np.ones((2, 3), dtype=np.float32)
    assert one("float32", (2, 3)).validate_input(array) is array


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", "float64", "complex64"])
def test_every_dtype_has_the_fast_way(dtype: str) -> None:
    array = np.ones(3, dtype=dtype)
    assert one(dtype, (3,)).validate_input(array) is array


def test_strided_and_big_endian_arrays_are_made_plain() -> None:
    signature = one("float32", (3, 2))
    turned = np.arange(6, dtype=np.float32).reshape(2, 3).T
    for value in (turned, turned.astype(">f4")):
        got = signature.validate_input(value)
        assert got.flags.c_contiguous
        assert got.dtype == np.dtype("<f4")
        np.testing.assert_array_equal(got, turned)


def test_tensors_and_numpy_scalars_are_arrays() -> None:
    assert one("float32", (2,)).validate_input(torch.ones(2)).tolist() == [1.0, 1.0]
    scalar = one("float32").validate_input(np.float32(2.5))
    assert scalar.shape == ()
    assert scalar.dtype == np.float32


def test_lists_and_numbers_are_converted() -> None:
    got = one("float32", (2, 2)).validate_input([[1, 2.5], (3, 4)])
    assert got.dtype == np.float32
    assert got.tolist() == [[1.0, 2.5], [3.0, 4.0]]
    assert one("int64").validate_input(7).item() == 7
    assert one("int8", (2,)).validate_input([1.0, -128]).tolist() == [1, -128]
    assert one("uint64", (2,)).validate_input([2**64 - 1, 0]).tolist() == [2**64 - 1, 0]
    assert one("bool", (2,)).validate_input([True, False]).tolist() == [True, False]
    assert one("complex64", (1,)).validate_input([1 + 2j]).tolist() == [1 + 2j]
    rows = [np.ones(2, np.float32), np.zeros(2, np.float32)]
    assert one("float32", (2, 2)).validate_input(rows).tolist() == [[1.0, 1.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("signature", "value", "sentence"),
    [
        (one("float32", (2,)), np.ones(2), r'dtype float32, but has float64.*astype\("float32"\)'),
        (one("float32", (2,)), np.ones((1, 2), np.float32), r"shape \[2\], but has \[1, 2\]"),
        (one("float32", (2,)), np.ones(3, np.float32), r"shape \[2\], but has \[3\]"),
        (one("float32", (-1,)), np.ones(0, np.float32), r"any length from 1"),
        (one("float32", (-1,)), [], r"any length from 1"),
        (one("float32", (2,)), "ab", "must be an array of float32, but is str"),
        (one("float32", (2,)), None, "must be an array of float32, but is NoneType"),
        (one("float32", (2,)), ["1", "2"], "holds str"),
        (one("float32", (2,)), [None, 1.0], "holds NoneType"),
        (one("float32", (2,)), [True, 1.0], "holds bool"),
        (one("bool", (2,)), [1, 0], "holds int"),
        (one("float32", (2,)), [object(), 1.0], "holds object"),
        (one("float32", (2, 2)), [[1.0], [1.0, 2.0]], "ragged"),
        (one("float32", (2, 2)), [[1.0, 2.0], 3.0], "ragged"),
        (one("float32", (2, 2)), [np.ones(1), np.ones(2)], "ragged"),
        (one("float32", (1, 2)), [np.ones(2)], "its parts make float64"),
        (one("int8", (1,)), [128], "outside the range of int8"),
        (one("uint8", (1,)), [-1], "outside the range of uint8"),
        (one("int64", (1,)), [2**63], "outside the range of int64"),
        (one("int64", (1,)), [2**70], "outside the range of int64"),
        (one("int64", (2,)), [2**60 + 1, 1.0], "outside the range of int64"),
        (one("int32", (1,)), [1.5], "whole numbers"),
        (one("int32", (1,)), [float("nan")], "whole numbers"),
        (one("float16", (1,)), [1e6], "outside the range of float16"),
        (one("float32", (1,)), [10**400], "outside the range of float32"),
        (one("float32", (1,), allow_nan=False), [float("nan")], "holds NaN"),
        (one("float32", (1,), allow_nan=False), np.array([np.nan], np.float32), "holds NaN"),
        (one("float32", (2,)), np.ma.masked_array([1.0, 2.0]), "masked array"),
        (one("float32", (2,)), torch.ones(2, requires_grad=True), r"x\.detach\(\)\.cpu\(\)"),
        (one("string"), np.array(["a"]), "must be text"),
        (one("string"), b"a", "must be text"),
        (one("string"), "\ud800", "UTF-8"),
        (one("bytes"), "a", "must be bytes"),
        (one("json"), {"a": np.ones(1)}, "holds ndarray"),
        (one("json"), {1: "a"}, "keys of a JSON object are text"),
        (one("json"), [2**64], "more than 64 bits"),
        (one("json", allow_nan=False), [float("inf")], "NaN or infinity"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(
    signature: Signature, value: Any, sentence: str
) -> None:
    with pytest.raises(InvalidInput, match=sentence) as refusal:
        signature.validate_input(value)
    if "x." not in sentence:
        assert "input 'x'" in str(refusal.value)


def test_plain_values_pass() -> None:
    assert one("string").validate_input("grüß") == "grüß"
    assert one("bytes").validate_input(bytearray(b"ab")) == b"ab"
    value: dict[str, Any] = {"a": [1, 2.5, None, True, "x", {"b": []}]}
    assert one("json").validate_input(value) is value
    assert one("json").validate_input({"x": 1}) == {"x": 1}, "for JSON a dict is the value"


def test_json_may_not_nest_without_end() -> None:
    value: list[Any] = []
    for _ in range(1000):
        value = [value]
    with pytest.raises(InvalidInput, match="deeper than 64"):
        one("json").validate_input(value)


def test_one_input_may_come_in_a_dict_of_its_name() -> None:
    signature = one("float32", (2,))
    assert signature.validate_input({"x": [1, 2]}).tolist() == [1.0, 2.0]
    assert one("string").validate_input({"x": "a"}) == "a"
    with pytest.raises(InvalidInput, match="missing: x; unknown: z"):
        signature.validate_input({"z": [1, 2]})


def test_several_inputs_come_in_a_dict_and_keep_their_order() -> None:
    signature = Signature(
        inputs={"b": TensorSpec(dtype="float32"), "a": TensorSpec(dtype="string")}, outputs=Y
    )
    got = signature.validate_input({"a": "text", "b": 1})
    assert list(got) == ["b", "a"]
    assert got["b"].dtype == np.float32
    with pytest.raises(InvalidInput, match=r"2 inputs \(b, a\): give a dict by name, not list"):
        signature.validate_input([1, "text"])
    with pytest.raises(InvalidInput, match=r"missing: b; unknown: c.*This model has: b, a"):
        signature.validate_input({"a": "text", "c": 1})


def test_rows_of_one_array_are_views_checked_once() -> None:
    array = np.arange(6, dtype=np.float32).reshape(3, 2)
    rows = one("float32", (2,)).validate_rows(array)
    assert [row.tolist() for row in rows] == array.tolist()
    assert all(np.shares_memory(row, array) for row in rows)
    scalars = one("float32").validate_rows(np.ones(2, np.float32))
    assert [(type(row), row.shape) for row in scalars] == [(np.ndarray, ())] * 2


def test_rows_that_do_not_fit_are_named_by_their_place() -> None:
    signature = one("float32", (2,))
    with pytest.raises(InvalidInput, match=r"Row 1: .*shape \[2\], but has \[3\]"):
        signature.validate_rows([[1, 2], [1, 2, 3]])
    with pytest.raises(InvalidInput, match="float64"):
        signature.validate_rows(np.ones((3, 2)))
    with pytest.raises(InvalidInput, match=r"shape \[2\], but has \[5\]"):
        signature.validate_rows(np.ones((3, 5), np.float32))
    with pytest.raises(InvalidInput, match="holds NaN"):
        one("float32", (1,), allow_nan=False).validate_rows(np.array([[1], [np.nan]], np.float32))
    with pytest.raises(InvalidInput, match="a list of rows, not one str"):
        one("string").validate_rows("abc")


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(1, 3))))
def test_lists_become_what_numpy_makes_of_them(array: np.ndarray[Any, Any]) -> None:
    got = one("float64", (-1, -1)).validate_input(array.tolist())
    np.testing.assert_array_equal(got, array)


@given(st.lists(st.integers(-(2**65), 2**65), min_size=1, max_size=5))
def test_integers_are_kept_exactly_or_refused(numbers: list[int]) -> None:
    fits = all(-(2**63) <= number < 2**63 for number in numbers)
    signature = one("int64", (-1,))
    if fits:
        assert signature.validate_input(numbers).tolist() == numbers
    else:
        with pytest.raises(InvalidInput, match="outside the range"):
            signature.validate_input(numbers)


def test_outputs_are_checked_by_the_same_rules(signature: Signature) -> None:
    assert signature.validate_output([1, 2, 3]).tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(InvalidInput, match="output 'y' must have shape"):
        signature.validate_output([1, 2])


@pytest.mark.parametrize(
    "spec",
    [
        {"dtype": "float128"},
        {"dtype": "bfloat16"},
        {"dtype": "float32", "shape": [0]},
        {"dtype": "float32", "shape": [-2]},
        {"dtype": "float32", "shape": [2.0]},
        {"dtype": "float32", "shape": [True]},
        {"dtype": "float32", "shape": [2], "mask": "m"},
        {"dtype": "string", "shape": [2]},
        {"dtype": "json", "mask": "m"},
        {"dtype": "float32", "extra": 1},
        {"dtype": "float32", "shape": [-1], "mask": "not a name"},
        {"dtype": "uint8", "shape": [-1], "pad_value": -1},
        {"dtype": "int32", "shape": [-1], "pad_value": 0.5},
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(spec: dict[str, Any]) -> None:
    with pytest.raises((ValidationError, InvalidInput)):
        TensorSpec.model_validate(spec)


@pytest.mark.parametrize(
    ("signature", "value", "length"),
    [
        (one("float32", (4,)), np.ones(4, np.float32), None),
        (one("float32"), np.float32(1), None),
        (one("int64", (-1,)), np.ones(7, np.int64), 7),
        (one("float32", (-1, 80)), np.ones((7, 80), np.float32), 7),
        (one("float32", (3, -1, -1)), np.ones((3, 7, 5), np.float32), 35),
        (one("string"), "", 0),
        (one("string"), "four", 4),
        (one("string"), "dörf", 5),
        (one("bytes"), b"four", 1_000),
        (one("json"), {"any": [1, 2]}, 1_000),
    ],
)
def test_inputs_have_a_length_where_they_differ(
    signature: Signature, value: Any, length: int | None
) -> None:
    assert signature.length_of(signature.validate_input(value), 1_000) == length


def test_of_several_inputs_the_first_variable_array_counts() -> None:
    text, fixed = TensorSpec(dtype="string"), TensorSpec(dtype="float32", shape=(2,))
    tokens = TensorSpec(dtype="int64", shape=(-1,))
    value = {"s": "text", "z": np.ones(2, np.float32), "t": np.ones(7, np.int64)}
    three = Signature(inputs={"s": text, "z": fixed, "t": tokens}, outputs=Y)
    assert three.length_of(value, 1_000) == 7
    two = Signature(inputs={"z": fixed, "s": text}, outputs=Y)
    assert two.length_of({"z": value["z"], "s": "text"}, 1_000) == 1_000


def test_masks_have_names_of_their_own_and_come_last() -> None:
    spec = TensorSpec(dtype="int64", shape=(-1,), mask="m")
    fixed = TensorSpec(dtype="float32")
    signature = Signature(inputs={"t": spec, "z": fixed}, outputs=Y)
    assert signature.arguments == ("t", "z", "m")
    assert signature.variable_inputs == ("t",)
    assert signature.variable_input == "t"
    assert Signature(inputs={"z": fixed}, outputs=Y).variable_input is None
    with pytest.raises(ValidationError, match="a name of its own"):
        Signature(inputs={"t": spec, "m": fixed}, outputs=Y)
    with pytest.raises(ValidationError, match="an output takes no mask"):
        Signature(inputs={"z": fixed}, outputs={"t": spec})
    with pytest.raises(ValidationError):
        Signature(inputs={}, outputs=Y)


def test_signatures_survive_json_and_compare_after_use(signature: Signature) -> None:
    signature.validate_input([1, 2, 3, 4])
    assert Signature.model_validate_json(signature.model_dump_json()) == signature


def test_rows_that_are_no_rows_are_refused() -> None:
    signature = Signature(
        inputs={"x": TensorSpec(dtype="float32")}, outputs={"y": TensorSpec(dtype="float32")}
    )
    with pytest.raises(InvalidInput, match="not one int"):
        signature.validate_rows(5)  # type: ignore[arg-type]
