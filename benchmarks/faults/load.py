"""The jobs of one scenario: submitted in bulk or as a stream, collected and checked one by one."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from faults.rows import TOLERANCE, answers, rows_of
from umbel import Client, Job
from umbel_config.errors import (
    JobFailed,
    JobNotFound,
    ResultTimeout,
    StoreUnavailable,
    UmbelError,
)

#: Threads that ask for results: who asks for a job that is lost learns of it within a second.
_ASKERS = 64
_PAUSE_S = 0.05


@dataclass(slots=True)
class Verdict:
    """What became of accepted jobs.

    Attributes:
        right: rows whose result is what plain torch gives.
        wrong: rows with another result.
        failed: rows whose job failed, with the kind of failure.
        lost: rows whose job is not known any more, or has no outcome in time.
    """

    right: list[int] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    lost: list[int] = field(default_factory=list)


class Load:
    """Submits rows of one model, and knows which of them were accepted.

    A submit that fails may have run all the same: its rows are never sent again, and not counted.

    Args:
        client: submits and collects.
        model: name of the model.
        numbers: hands out row numbers that no other load uses.

    Attributes:
        jobs: accepted jobs, with their row.
        times: ``time.monotonic()`` at which each was accepted, in the same order.
        refused: rows that were not accepted, counted by the name of the error.
    """

    def __init__(self, client: Client, model: str, numbers: Any) -> None:
        self.jobs: list[tuple[int, Job]] = []
        self.times: list[float] = []
        self.refused: Counter[str] = Counter()
        self._client, self._model, self._numbers = client, model, numbers
        self._odd: dict[int, float] = {}
        self._stop = threading.Event()
        self._feeder: threading.Thread | None = None

    def submit(self, count: int, odd: dict[int, float] | None = None) -> list[int]:
        """Submits ``count`` new rows in one call; returns the numbers of those accepted.

        Args:
            count: how many.
            odd: second values of some of them, by their place: see ``model.Kind``.
        """
        numbers = [next(self._numbers) for _ in range(count)]
        rows = rows_of(numbers)
        for place, value in (odd or {}).items():
            rows[place, 1] = value
            self._odd[numbers[place]] = value
        try:
            jobs = self._client.submit_many(self._model, rows)
        except StoreUnavailable as error:
            self.refused[type(error).__name__] += count
            return []
        self._keep(numbers, jobs)
        return numbers

    def feed(self, per_s: float, chunk: int = 16) -> None:
        """Goes on submitting from a thread, until ``stop``.

        Args:
            per_s: jobs per second.
            chunk: jobs per call.
        """
        self._feeder = threading.Thread(target=self._run, args=(chunk / per_s, chunk), daemon=True)
        self._feeder.start()

    def stop(self) -> None:
        """Ends the feeding."""
        self._stop.set()
        if self._feeder is not None:
            self._feeder.join()

    def adopt(self, numbers: Iterable[int], jobs: Iterable[Job]) -> None:
        """Counts jobs that another process submitted."""
        self._keep(list(numbers), list(jobs))

    def collect(self, timeout_s: float, sick: Collection[int] = ()) -> Verdict:
        """Waits for the outcome of every accepted job, and compares it with plain torch.

        Args:
            timeout_s: seconds for all of them.
            sick: rows for which there is no right answer.
        """
        verdict, end = Verdict(), time.monotonic() + timeout_s
        numbers = [number for number, _ in self.jobs]
        expected = answers(self._rows(numbers)) if numbers else np.empty((0, 1))
        with ThreadPoolExecutor(_ASKERS) as pool:
            outs = pool.map(lambda pair: _result(pair[1], end), self.jobs)
            for number, out, answer in zip(numbers, outs, expected, strict=True):
                if isinstance(out, JobFailed):
                    verdict.failed[number] = out.kind
                elif isinstance(out, UmbelError):
                    verdict.lost.append(number)
                else:
                    right = number in sick or np.allclose(out, answer, TOLERANCE, TOLERANCE)
                    (verdict.right if right else verdict.wrong).append(number)
        return verdict

    def _rows(self, numbers: list[int]) -> Any:
        rows = rows_of(numbers)
        for place, number in enumerate(numbers):
            rows[place, 1] = self._odd.get(number, rows[place, 1])
        return rows

    def _keep(self, numbers: list[int], jobs: list[Job]) -> None:
        self.times += [time.monotonic()] * len(jobs)
        self.jobs += zip(numbers, jobs, strict=True)

    def _run(self, pause_s: float, chunk: int) -> None:
        while not self._stop.wait(pause_s):
            self.submit(chunk)


def _result(job: Job, end: float) -> Any:
    """The output of a job or its error; asks again while Redis is away: that is retryable."""
    while True:
        try:
            return job.result(timeout=max(0.0, end - time.monotonic()))
        except StoreUnavailable as error:
            if time.monotonic() >= end:
                return error
            time.sleep(_PAUSE_S)
        except (JobFailed, JobNotFound, ResultTimeout) as error:
            return error
