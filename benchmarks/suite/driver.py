"""How a contestant is asked: a process of its own, with one order a line and one answer a line.

Standard input carries orders and standard output answers, both JSON, so that the process of a
contestant needs none of umbel's packages and waits without using the processor.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Driver(ABC):
    """Asks one contestant, and times that."""

    def rows(self, model: str, count: int) -> Any:
        """The first ``count`` inputs of a model."""
        from suite.networks import rows  # noqa: PLC0415  (it loads torch, which some do not need)

        return rows(model, count)

    def ready(self, model: str) -> None:  # noqa: B027  (most have nothing to prepare)
        """Prepares what does not count, as connections."""

    @abstractmethod
    def many(self, model: str, rows: Any) -> NDArray[Any]:
        """Answers of all rows, in their order, as fast as the contestant can."""

    def one(self, model: str, row: Any) -> NDArray[Any]:
        """The answer of one row."""
        answer: NDArray[Any] = self.many(model, row[None])[0]
        return answer

    def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        """Carries an order out and returns what came of it.

        Args:
            order: ``model``, ``count``; ``file`` for the answers; ``each``: whether rows go one
                after the other, each when the one before is answered; then ``pauses_s``: idle
                seconds before each, or ``None``; ``at``: moment of ``time.monotonic`` to begin at.
        """
        model = order["model"]
        rows = self.rows(model, order["count"])
        self.ready(model)
        gc.collect()
        time.sleep(max(0.0, order.get("at", 0.0) - time.monotonic()))
        answers, told = self._each(model, rows, order) if order["each"] else self._all(model, rows)
        np.save(order["file"], answers)
        return told

    def _all(self, model: str, rows: Any) -> tuple[Any, dict[str, Any]]:
        began = time.monotonic()
        answers = self.many(model, rows)
        return answers, {"began": began, "ended": time.monotonic()}

    def _each(self, model: str, rows: Any, order: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        answers, times_ms = [], []
        pauses = order["pauses_s"] or [0.0] * len(rows)
        for row, pause_s in zip(rows, pauses, strict=True):
            time.sleep(pause_s)
            began = time.perf_counter()
            answers.append(self.one(model, row))
            times_ms.append((time.perf_counter() - began) * 1000)
        return np.stack(answers), {"times_ms": times_ms}


def serve(driver: Any) -> None:
    """Obeys orders until standard input ends.

    Args:
        driver: has an ``obey``.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the log
    for line in sys.stdin:
        try:
            told = driver.obey(json.loads(line))
        except Exception as error:  # noqa: BLE001  (whatever a contestant raises is its result)
            told = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(told) + "\n")
        answers.flush()
    os._exit(0)  # a client may wait for ever to take leave of a server that ended first
