"""The end of a process in words, as operators and dead letters tell it."""

from __future__ import annotations

import pytest

from umbel_worker.exits import how_it_ended


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-11, "killed by SIGSEGV"),
        (-9, "killed by SIGKILL"),
        (-250, "killed by signal 250"),
        (7, "ended by itself with exit code 7"),
        (0, "ended by itself with exit code 0"),
        (None, "ended in an unknown way"),
    ],
)
def test_exit_code_in_words(code: int | None, words: str) -> None:
    assert how_it_ended(code) == words
