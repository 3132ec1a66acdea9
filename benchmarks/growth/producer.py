"""A producer process: does what its standard input says, checks every answer, and tells its times.

Usage: python -m growth.producer

Each line of its standard input is a request in JSON. It prepares, prints a line, waits for one
more to begin, does it, checks and prints what it found, in JSON. It loads no torch: the right
answers are read from a file.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umbel import Client, Job
from umbel_config.errors import UmbelError

#: A job without a result after so long is lost, s.
PATIENCE_S = 120.0
#: Jobs of a paced load are submitted in groups, one each so many seconds.
GROUP_S = 0.005
Array = NDArray[Any]


class Work:
    """One request: which jobs, and what the right answers are.

    Args:
        request: as it was read; see ``crew.ask``.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        self.model, self.count = request["model"], request["count"]
        self.lanes, self.per_s = request["lanes"], request["per_s"]
        self.kinds, self.truths = _loaded(request["rows"]), _loaded(request["answers"])
        self.tolerance = request["tolerance"]
        self.outputs: dict[int, Any] = {}
        self.all_rows = self.rows(0, self.count) if request["do"] == "bulk" else None

    def rows(self, first: int, count: int) -> Array:
        """Rows from job ``first`` on: job n has row n of those there are, in turn."""
        rows: Array = self.kinds[np.arange(first, first + count) % len(self.kinds)]
        return rows

    def parts(self, size: int) -> Iterator[tuple[int, int]]:
        """Cuts all jobs into pieces: the first of each, and how many."""
        for first in range(0, self.count, size):
            yield first, min(size, self.count - first)

    def lane(self, part: int) -> str | None:
        """The version that the jobs of a piece are for: all in turn, if there are several lanes."""
        return str(1 + part % self.lanes) if self.lanes else None

    def check(self) -> None:
        """Compares all outputs.

        Raises:
            AssertionError: one is wrong or missing.
        """
        assert len(self.outputs) == self.count
        places = np.fromiter(self.outputs, int, self.count)
        got = np.stack(list(self.outputs.values()))
        right = self.truths[places % len(self.truths)]
        np.testing.assert_allclose(got, right, rtol=self.tolerance, atol=self.tolerance)


@cache
def _loaded(file: str) -> Array:
    found: Array = np.load(file)
    return found


def bulk(client: Client, work: Work) -> list[float]:
    """All jobs as fast as they go: by ``map``, or lane by lane."""
    rows = work.all_rows
    assert rows is not None
    if not work.lanes:
        outputs = list(client.map(work.model, rows))
    else:
        size, jobs = -(-work.count // work.lanes), list[Job]()
        for part, (first, count) in enumerate(work.parts(size)):
            some = rows[first : first + count]
            jobs += client.submit_many(work.model, some, version=work.lane(part))
        outputs = [job.result(PATIENCE_S) for job in jobs]
    work.outputs = dict(enumerate(outputs))
    return []


def single(client: Client, work: Work) -> list[float]:
    """One job after the other, each submitted when the one before is answered."""
    times = []
    for number in range(work.count):
        started = time.monotonic()
        row = work.kinds[number % len(work.kinds)]
        job = client.submit(work.model, row, version=work.lane(number))
        work.outputs[number] = job.result(PATIENCE_S)
        times.append(time.monotonic() - started)
    return times


def paced(client: Client, work: Work) -> list[float]:
    """So many jobs a second, whether earlier ones are answered or not; latency is from due on."""
    size = max(1, round(work.per_s * GROUP_S))
    sent: SimpleQueue[Callable[[], tuple[int, float, list[Job]]]] = SimpleQueue()
    begin = time.monotonic() + 0.02

    def submit() -> None:
        for part, (first, count) in enumerate(work.parts(size)):
            due = begin + first / work.per_s
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                jobs = client.submit_many(
                    work.model, work.rows(first, count), version=work.lane(part)
                )
            except UmbelError as error:
                sent.put(_raising(error))
                return
            sent.put(_returning((first, due, jobs)))

    threading.Thread(target=submit, daemon=True).start()
    times: list[float] = []
    while len(work.outputs) < work.count:
        first, due, jobs = sent.get()()
        for place, job in enumerate(jobs):
            work.outputs[first + place] = job.result(PATIENCE_S)
            times.append(time.monotonic() - due)
    return times


def _raising(error: BaseException) -> Callable[[], Any]:
    def raise_it() -> Any:
        raise error

    return raise_it


def _returning(value: Any) -> Callable[[], Any]:
    return lambda: value


_KINDS: dict[str, Callable[[Client, Work], list[float]]] = {
    "bulk": bulk,
    "single": single,
    "paced": paced,
}


def main() -> None:
    """Answers requests until standard input is closed."""
    with Client() as client:
        for line in sys.stdin:
            request = json.loads(line)
            work = Work(request)
            gc.collect()
            print("ready", flush=True)
            sys.stdin.readline()
            told = timed(_KINDS[request["do"]], client, work)
            work.check()
            print(json.dumps(told), flush=True)


def timed(do: Callable[[Client, Work], list[float]], client: Client, work: Work) -> dict[str, Any]:
    """Does it.

    Returns:
        When it began and ended, on a clock that all processes share, how much CPU time this process
        took, and the latency of each job where it was noted; all in seconds.
    """
    begin, spent = time.monotonic(), time.process_time()
    times = do(client, work)
    end, spent = time.monotonic(), time.process_time() - spent
    return {"begin": begin, "end": end, "cpu_s": spent, "times": times}


if __name__ == "__main__":
    main()
