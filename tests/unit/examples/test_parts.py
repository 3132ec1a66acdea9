"""Cutting a batch into parts of similar length."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from umbel_examples.parts import BUDGET, as_they_come, by_length

LENGTHS = st.lists(st.integers(1, 2 * BUDGET), min_size=1, max_size=80)


@given(LENGTHS)
def test_every_row_is_in_exactly_one_part(lengths: list[int]) -> None:
    for plan in (by_length, as_they_come):
        places = [place for part in plan(lengths) for place in part]
        assert sorted(places) == list(range(len(lengths)))


@given(LENGTHS)
def test_no_part_is_padded_by_more_than_a_quarter_or_over_the_budget(lengths: list[int]) -> None:
    for part in by_length(lengths):
        rows = [lengths[place] for place in part]
        slots = max(rows) * len(rows)
        assert slots - sum(rows) <= sum(rows) / 4
        assert slots <= BUDGET or len(rows) == 1


def test_rows_of_one_length_share_a_part_up_to_the_budget() -> None:
    assert by_length([7] * 5) == [[0, 1, 2, 3, 4]]
    assert [len(part) for part in by_length([BUDGET // 16] * 20)] == [16, 4]


def test_rows_of_other_lengths_stand_apart() -> None:
    assert by_length([10, 100, 9, 95]) == [[1, 3], [0, 2]]


def test_as_they_come_is_one_part() -> None:
    assert as_they_come([10, 100, 9]) == [[0, 1, 2]]
