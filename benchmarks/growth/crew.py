"""The producer processes of a measurement, told what to do all at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from faults.closing import Closing
from faults.processes import HERE
from faults.waiting import NeverHappened
from numpy.typing import NDArray

_STOP_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A model to be asked, with inputs and the right answers.

    Attributes:
        model: its name.
        rows: file of the inputs, ``[kinds, ...]``.
        answers: file of the outputs.
        row_bytes: of one input.
        lanes: versions 1 to so many of it take jobs in turn; 0: its only version.
        tolerance: by which an answer may differ, relative and absolute.
    """

    model: str
    rows: Path
    answers: Path
    row_bytes: int
    lanes: int = 0
    tolerance: float = 1e-3

    @classmethod
    def write(
        cls, folder: Path, model: str, rows: NDArray[Any], answers: NDArray[Any], **more: Any
    ) -> Task:
        """Writes inputs and answers into files.

        Args:
            folder: where to.
            model: its name.
            rows: the inputs.
            answers: what the model makes of them.
            **more: other attributes.
        """
        files = folder / f"{model}-rows.npy", folder / f"{model}-answers.npy"
        for file, array in zip(files, (rows, answers), strict=True):
            np.save(file, array)
        size = rows[0].nbytes
        return cls(model=model, rows=files[0], answers=files[1], row_bytes=size, **more)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a crew did.

    Attributes:
        jobs: answered, rightly.
        seconds: from the first beginning to the last end.
        cpu_s: seconds of CPU that the producers used.
        times: latency of each job in seconds, where it was noted.
    """

    jobs: int
    seconds: float
    cpu_s: float
    times: list[float]

    @property
    def client_us(self) -> float:
        """Microseconds of CPU of the producers for each job."""
        return self.cpu_s * 1e6 / self.jobs

    @property
    def per_s(self) -> float:
        """Jobs per second."""
        return self.jobs / self.seconds


class Crew(Closing):
    """Producer processes, started once and told again and again.

    Args:
        count: how many.
        variables: of their environment.
        folder: for what they log.
    """

    def __init__(self, count: int, variables: Mapping[str, str], folder: Path) -> None:
        paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {**os.environ, **variables, "PYTHONPATH": os.pathsep.join(paths)}
        self._log = folder / "producers.log"
        with self._log.open("ab") as log:
            self._processes = [
                subprocess.Popen(
                    [sys.executable, "-m", "growth.producer"],
                    env=env,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
                for _ in range(count)
            ]

    def ask(self, do: str, task: Task, count: int, *, per_s: float = 0.0, use: int = 1) -> Outcome:
        """Has producers work at the same time, and waits for them.

        Args:
            do: ``bulk``, ``single`` or ``paced``.
            task: what to ask.
            count: jobs in all.
            per_s: jobs per second in all, of a paced load.
            use: producers to use.

        Raises:
            NeverHappened: one had a wrong answer, or none in time.
        """
        each = -(-count // use)
        request = {
            "do": do,
            "model": task.model,
            "rows": str(task.rows),
            "answers": str(task.answers),
            "tolerance": task.tolerance,
            "lanes": task.lanes,
            "count": each,
            "per_s": per_s / use,
        }
        chosen = self._processes[:use]
        self._say(chosen, json.dumps(request))
        for process in chosen:
            self._line(process)  # it is ready
        self._say(chosen, "go")
        return _together([json.loads(self._line(process)) for process in chosen], each)

    def _say(self, processes: Sequence[subprocess.Popen[str]], line: str) -> None:
        for process in processes:
            assert process.stdin is not None
            print(line, file=process.stdin, flush=True)

    def _line(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise NeverHappened(f"a producer gave up: {self._log.read_text()[-2000:]}")
        return line

    def close(self) -> None:
        """Ends them."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _together(replies: Sequence[Mapping[str, Any]], each: int) -> Outcome:
    begin = min(reply["begin"] for reply in replies)
    end = max(reply["end"] for reply in replies)
    times = [seconds for reply in replies for seconds in reply["times"]]
    cpu_s = sum(reply["cpu_s"] for reply in replies)
    return Outcome(each * len(replies), end - begin, cpu_s, times)
