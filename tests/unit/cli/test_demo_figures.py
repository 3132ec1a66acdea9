"""What the demo counts and draws, on made-up jobs."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from umbel import JobInfo
from umbel_cli.demo.figures import Figures, figures_of, guesses
from umbel_cli.demo.load import Share
from umbel_cli.demo.report import show_batches, show_digits, show_figures


def story(batch: str, size: int, wait_ms: int, compute_ms: float) -> JobInfo:
    return JobInfo(
        id="a-b",
        model="digits",
        version="1",
        state="succeeded",
        created_at=0,
        started_at=wait_ms,
        finished_at=wait_ms + 1,
        batch_id=batch,
        batch_size=size,
        flush_reason="size" if size > 1 else "timeout",
        wait_ms=wait_ms,
        compute_ms=compute_ms,
        attempts=1,
        worker="w",
        error=None,
        metadata={},
    )


def share(rows: list[int], read: list[int], *stories: JobInfo, at: float = 0.0) -> Share:
    logits = np.eye(10, dtype=np.float32)[read]
    return Share(np.array(rows), logits, list(stories), at, at + 2.0)


@pytest.fixture
def shares() -> list[Share]:
    return [
        share([0, 1], [3, 4], story("x", 2, 1, 2.0), story("x", 2, 3, 2.0)),
        share([2], [5], story("y", 1, 5, 1.0), at=1.0),
    ]


@pytest.fixture
def figures(shares: list[Share]) -> Figures:
    return figures_of(shares)


def test_figures_count_each_batch_once(figures: Figures) -> None:
    assert (figures.jobs, figures.batches) == (3, 2)
    assert figures.sizes == {1: 1, 2: 1}
    assert figures.reasons == {"size": 1, "timeout": 1}
    assert figures.wait_ms[0] == 3.0
    assert figures.compute_ms[0] == 1.5


def test_throughput_runs_from_the_first_submit_to_the_last_result(figures: Figures) -> None:
    assert figures.seconds == 3.0
    assert figures.per_second == 1.0


def test_guesses_by_digit(shares: list[Share]) -> None:
    assert guesses(shares, 3).tolist() == [3, 4, 5]


@pytest.mark.parametrize("read", [[7, 8], [8, 7]])
def test_a_digit_read_in_two_ways_is_never_right(read: list[int]) -> None:
    assert guesses([share([0, 0], read)], 1).tolist() == [-1]


def drawn(draw: object, *values: object) -> str:
    file = io.StringIO()
    assert callable(draw)
    draw(Console(file=file, width=100), *values)
    return file.getvalue()


def test_digits_are_drawn_with_the_wrong_ones() -> None:
    pixels = np.zeros((6, 64), dtype=np.float32)
    pixels[:, 0] = 16
    labels = np.arange(6)
    text = drawn(show_digits, pixels, labels, np.array([0, 1, 2, 3, 4, 9]))
    assert text.count("██") == 4
    assert "read 9, is 5" in text
    assert "read 0" in text


def test_bars_gather_sizes(figures: Figures) -> None:
    text = drawn(show_batches, figures)
    assert "size 1, timeout 1" in text
    assert text.count("█") == 64


def test_comparison_names_the_ratio(figures: Figures) -> None:
    text = drawn(show_figures, figures, figures)
    assert "1.0 times" in text
    assert "3.0 / 4.8 ms" in text
