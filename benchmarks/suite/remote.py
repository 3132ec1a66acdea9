"""The process of a driver, from our side: orders go out, and what came of them comes back."""

from __future__ import annotations

import json
import selectors
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suite.processes import Process

#: Seconds in which any order is carried out; a contestant that takes longer is stuck.
_PATIENCE_S = 150.0


class DriverFailed(Exception):
    """A contestant raised, ended or got stuck; the sentence says which."""


class Remote(Process):
    """A driver in a process of its own; it waits for orders without using the processor.

    Args:
        command: the interpreter and the driver's module.
        variables: its environment beside ours.
        log: file for what it says; its answers lie beside that.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], log: Path) -> None:
        super().__init__(command, variables, log, talks=True)
        self._file = log.with_suffix(".npy")

    def begin(self, model: str, count: int, **more: Any) -> None:
        """Gives an order; see ``Driver.obey``.

        Args:
            model: whose rows.
            count: how many rows.
            **more: of the order.

        Raises:
            DriverFailed: the process is gone.
        """
        order = {"model": model, "count": count, "file": str(self._file), "each": False, **more}
        assert self.popen.stdin is not None
        try:
            self.popen.stdin.write(json.dumps(order).encode() + b"\n")
            self.popen.stdin.flush()
        except BrokenPipeError:
            raise DriverFailed(f"it ended: {self.said()}") from None

    def end(self, patience_s: float = _PATIENCE_S) -> dict[str, Any]:
        """Waits until the order is carried out.

        Args:
            patience_s: seconds that it may take.

        Raises:
            DriverFailed: it took longer, the process ended, or the contestant raised.
        """
        assert self.popen.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.popen.stdout, selectors.EVENT_READ)
            if not selector.select(patience_s):
                raise DriverFailed(f"no answer within {patience_s:g} s")
        line = self.popen.stdout.readline()
        if not line:
            raise DriverFailed(f"it ended: {self.said()}")
        told: dict[str, Any] = json.loads(line)
        if "error" in told:
            raise DriverFailed(told["error"])
        return told

    def answers(self) -> NDArray[Any]:
        """The answers of the last order, in the order of the rows."""
        found: NDArray[Any] = np.load(self._file, allow_pickle=False)
        return found
