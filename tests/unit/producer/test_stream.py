"""Rows are cut into chunks whatever they come in, and waiting pauses grow to a bound."""

from __future__ import annotations

from itertools import count, islice

import numpy as np
import pytest

from umbel._job import _FIRST_POLL_S, _LONGEST_POLL_S, next_pause
from umbel._stream import MAP_CHUNK, bar, chunks, not_in_time
from umbel._submission import BUNDLE, BUNDLE_BYTES, bundled
from umbel_batching.values import NewJob


@pytest.mark.parametrize("rows", [0, 1, MAP_CHUNK - 1, MAP_CHUNK, MAP_CHUNK + 1, 3 * MAP_CHUNK])
def test_chunks_hold_every_row_once_in_order(rows: int) -> None:
    cut = list(chunks(iter(range(rows))))
    assert [row for chunk in cut for row in chunk] == list(range(rows))
    assert all(0 < len(chunk) <= MAP_CHUNK for chunk in cut)


def test_array_is_cut_into_arrays() -> None:
    array = np.arange(2 * MAP_CHUNK + 1).reshape(-1, 1)
    cut = list(chunks(array))
    assert [len(chunk) for chunk in cut] == [MAP_CHUNK, MAP_CHUNK, 1]
    assert all(np.shares_memory(chunk, array) for chunk in cut)


def test_endless_rows_are_taken_as_needed() -> None:
    endless = count()
    next(chunks(endless))
    assert next(endless) == MAP_CHUNK


def test_bundles_are_bounded_in_number_and_bytes() -> None:
    small = [NewJob(str(place), b"x") for place in range(2 * BUNDLE + 1)]
    assert [len(bundle) for bundle in bundled(small)] == [BUNDLE, BUNDLE, 1]
    assert [job for bundle in bundled(small) for job in bundle] == small
    large = [NewJob(str(place), bytes(BUNDLE_BYTES // 3)) for place in range(4)]
    assert [len(bundle) for bundle in bundled(large)] == [3, 1]
    huge = [NewJob("a", bytes(BUNDLE_BYTES + 1)), NewJob("b", b"x")]
    assert [len(bundle) for bundle in bundled(huge)] == [1, 1]
    assert list(bundled([])) == []


def test_pauses_grow_to_a_bound() -> None:
    pauses = [0.0]
    for _ in range(50):
        pauses.append(next_pause(pauses[-1]))
    assert pauses[1] == _FIRST_POLL_S
    assert pauses == sorted(pauses)
    assert pauses[-1] == _LONGEST_POLL_S


def test_error_for_many_says_how_many() -> None:
    assert "3 jobs" in str(not_in_time(3))


def test_progress_bar_counts_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("digits", islice(count(), 3)) as advance:
        for _ in range(3):
            advance()
    with bar("digits", range(3)) as advance:
        for _ in range(3):
            advance()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "3/?" in printed.err
    assert "3/3" in printed.err
