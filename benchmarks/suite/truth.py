"""What plain torch makes of the same rows, in this process: every answer is held against it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from suite.networks import TOLERANCE, in_batches, rows
from suite.sentences import embedded, some


class WrongAnswer(Exception):
    """An answer is not that of the model, or is missing."""


class Truth:
    """Right answers, worked out when they are needed first, and kept."""

    def __init__(self) -> None:
        self._known: dict[str, NDArray[Any]] = {}

    def of(self, model: str, count: int) -> NDArray[Any]:
        """The right answers to the first rows.

        Args:
            model: its name; what follows a hyphen names a policy of batching, not other weights.
            count: how many rows.
        """
        name = model.partition("-")[0]
        known = self._known.get(name)
        if known is None or len(known) < count:
            texts = name == "minilm"
            known = embedded(some(count)) if texts else in_batches(name, rows(name, count))
            self._known[name] = known
        return known[:count]

    def check(self, model: str, answers: NDArray[Any]) -> None:
        """Holds the answers to the first rows against the right ones.

        Args:
            model: its name.
            answers: in the order of the rows.

        Raises:
            WrongAnswer: one differs.
        """
        compare(answers, self.of(model, len(answers)))


def compare(answers: NDArray[Any], right: NDArray[Any]) -> None:
    """Holds answers against the right ones.

    Args:
        answers: one a row.
        right: the same.

    Raises:
        WrongAnswer: one differs, or is missing.
    """
    if answers.shape != right.shape:
        raise WrongAnswer(f"answers of shape {answers.shape} instead of {right.shape}")
    off = ~np.isclose(answers, right, rtol=TOLERANCE, atol=TOLERANCE)
    wrong = int(off.reshape(len(answers), -1).any(axis=1).sum())
    if wrong:
        raise WrongAnswer(f"{wrong} of {len(answers)} answers are wrong")
