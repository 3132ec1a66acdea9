"""A steady trickle of jobs for model ``affine`` of the tests, and how they ended."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from typing import Any

import numpy as np

from umbel import Client, Job, JobFailed
from umbel_batching.lanes import split_id
from umbel_config.errors import StoreUnavailable
from umbel_config.settings import Settings

#: Jobs of one call, and seconds between two calls.
_EACH, _PAUSE_S = 16, 0.05


class Feed:
    """Submits rows from a thread, in small groups and no two alike, until it is stopped.

    Args:
        settings: which Redis and namespace.

    Attributes:
        jobs: what was accepted: rows and their jobs.
    """

    def __init__(self, settings: Settings) -> None:
        self.jobs: list[tuple[Any, Job]] = []
        self._client, self._stop = Client(settings=settings), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Ends the submitting; a second call does nothing."""
        self._stop.set()
        self._thread.join()

    def stop(self) -> dict[str, Counter[str]]:
        """Ends it, waits for all jobs and checks their results.

        Returns:
            How many succeeded, or failed with what, by slot of their lane.
        """
        self.end()
        ended: defaultdict[str, Counter[str]] = defaultdict(Counter)
        with self._client:
            for row, job in self.jobs:
                ended[split_id(job.id)[0]][_end_of(job, row)] += 1
        return ended

    def _run(self) -> None:
        rows = np.arange(4 * _EACH, dtype=np.float32).reshape(_EACH, 4) + 200
        while not self._stop.wait(_PAUSE_S):
            rows = rows + 4 * _EACH
            try:
                self.jobs += zip(rows, self._client.submit_many("affine", rows), strict=True)
            except StoreUnavailable:
                continue


def _end_of(job: Job, row: Any) -> str:
    try:
        np.testing.assert_array_equal(job.result(timeout=60), row * 2 + 1)
    except JobFailed as error:
        return error.kind
    return "succeeded"
