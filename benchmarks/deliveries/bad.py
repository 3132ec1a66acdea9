"""Five bad receivers beside good ones: what is delivered, and what becomes of inference."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from faults.rows import TOLERANCE, answers
from faults.waiting import until

from deliveries.scene import MODEL, Got, Receivers, over, rows, stage, start_sender, submit
from umbel import Client, Job

GOOD = ("good",) * 6
#: The last one takes its tenth beside five that misbehave.
BAD = ("hang", "reset", "flaky", "gone", "busy", "good")
#: Those that take everything in the end.
_ABLE = frozenset({"flaky", "busy", "good"})


@dataclass(frozen=True, slots=True)
class Round:
    """One run.

    Attributes:
        kinds: of its receivers.
        inference_per_s: jobs computed per second while callbacks were sent.
        jobs: with callbacks, by kind of receiver.
        taken: callbacks that arrived and were taken, by kind.
        twice: callbacks that were taken more than once.
        invalid: POSTs with a wrong signature.
        wrong_ids: jobs whose callback came under more than one ``webhook-id``.
        delays_ms: from the end of the job to arrival, at the last receiver, a good one.
        states: how the deliveries stood at the end.
        over_s: seconds until everything that could be delivered was.
    """

    kinds: tuple[str, ...]
    inference_per_s: float
    jobs: Counter[str]
    taken: Counter[str]
    twice: int
    invalid: int
    wrong_ids: int
    delays_ms: list[float]
    states: Counter[str]
    over_s: float

    @property
    def missing(self) -> int:
        """Callbacks that could have been delivered, and were not."""
        return sum(self.jobs[kind] - self.taken[kind] for kind in _ABLE)


def play(url: str, kinds: Sequence[str], count: int, window_s: float) -> Round:
    """Runs once.

    Args:
        url: of an empty Redis.
        kinds: of the receivers.
        count: jobs with callbacks.
        window_s: seconds over which they are submitted, amid others without.
    """
    receivers = Receivers(kinds)
    with stage(url) as made:
        start_sender(made)
        other = _Stream(made.client)
        warm = made.client.submit_many(MODEL, rows(64))
        [job.result(30) for job in warm]
        other.start()
        by_kind = _submit(made.client, kinds, receivers.urls, count, window_s)
        jobs = [job for some in by_kind.values() for job in some]
        for job in jobs:
            job.wait(60)
        per_s = (other.stop() + len(jobs)) / other.seconds
        started = time.monotonic()
        able = sum(len(some) for kind, some in by_kind.items() if kind in _ABLE)
        able += len(by_kind.get("gone", ()))
        until(lambda: over(made) >= able, "what can be delivered is", 120)
        over_s = time.monotonic() - started
        states = Counter(
            info.callback.state for job in jobs[::10] if (info := job.info()).callback is not None
        )
    return _round(tuple(kinds), per_s, by_kind, receivers.stop(), states, over_s)


def _submit(
    client: Client, kinds: Sequence[str], urls: Sequence[str], count: int, window_s: float
) -> dict[str, list[Job]]:
    """Submits the jobs evenly over the window, receiver by receiver."""
    by_kind: dict[str, list[Job]] = {kind: [] for kind in kinds}
    turns = 20
    begin, each = time.monotonic(), count // (turns * len(urls))
    for turn in range(turns):
        for kind, url in zip(kinds, urls, strict=True):
            more = count - turns * len(urls) * each if turn == 0 and url == urls[-1] else 0
            by_kind[kind] += submit(client, url, each + more)
        pause = begin + (turn + 1) * window_s / turns - time.monotonic()
        time.sleep(max(0.0, pause))
    return by_kind


class _Stream:
    """Jobs without callbacks that keep the worker busy; every answer is checked.

    Args:
        client: submits them.
    """

    def __init__(self, client: Client) -> None:
        self._client, self._stop = client, threading.Event()
        self._done, self._begin = 0, 0.0
        self.seconds = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begins."""
        self._begin = time.monotonic()
        self._thread.start()

    def stop(self) -> int:
        """Ends; returns how many jobs were computed."""
        self._stop.set()
        self._thread.join()
        self.seconds = time.monotonic() - self._begin
        return self._done

    def _run(self) -> None:
        chunk = rows(512)
        expected = answers(chunk)
        ahead: list[list[Job]] = []
        while not self._stop.is_set():
            ahead.append(self._client.submit_many(MODEL, chunk))
            if len(ahead) == 3:
                self._collect(ahead.pop(0), expected)
        for jobs in ahead:
            self._collect(jobs, expected)

    def _collect(self, jobs: list[Job], expected: Any) -> None:
        outputs = np.stack([job.result(60) for job in jobs])
        if not np.allclose(outputs, expected, TOLERANCE, TOLERANCE):
            raise AssertionError("a result is not what plain torch gives")
        self._done += len(jobs)


def _round(
    kinds: tuple[str, ...],
    per_s: float,
    by_kind: dict[str, list[Job]],
    got: Got,
    states: Counter[str],
    over_s: float,
) -> Round:
    kind_of = {job.id: kind for kind, jobs in by_kind.items() for job in jobs}
    taken: Counter[str] = Counter()
    for job_id in got.taken:
        taken[kind_of[job_id]] += 1
    return Round(
        kinds=kinds,
        inference_per_s=per_s,
        jobs=Counter(kind_of.values()),
        taken=taken,
        twice=sum(times > 1 for times in got.taken.values()),
        invalid=got.invalid,
        wrong_ids=sum(len(ids) > 1 for ids in got.message_ids.values()),
        delays_ms=sorted(got.delays_ms.get(len(kinds) - 1, [])),
        states=states,
        over_s=over_s,
    )
