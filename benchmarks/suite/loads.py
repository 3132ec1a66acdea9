"""Open loops on umbel, at shares of the capacity that was just measured for single submits."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from suite.arrivals import KINDS
from suite.contestant import Contestant
from suite.open_loop import Seen
from suite.pace import Pace
from suite.quantiles import Tail
from suite.results import Open, Results
from suite.rounds import Say
from suite.truth import Truth, compare

MODEL: Final = "tiny"
#: Requests take these many rows in turn; the first seconds of a load are left out.
_ROWS, _WARM_S = 1024, 1.0
#: Seconds for the last answers, beside those of the load.
_REST_S: Final = 90.0


def open_loops(
    contestant: Contestant, capacity: float, pace: Pace, truth: Truth, results: Results, say: Say
) -> None:
    """Runs all loads of a pace, one after the other.

    Args:
        contestant: umbel by ``AsyncClient``.
        capacity: requests per second.
        pace: which loads.
        truth: the right answers.
        results: where they are noted.
        say: is told of each.

    Raises:
        DriverFailed: the generator ended or got stuck.
        WrongAnswer: an answer is wrong.
    """
    driver = contestant.drivers[0]
    for kind, share in pace.loads:
        per_s, file = share * capacity, Path(driver.log).with_suffix(".arrivals.npy")
        np.save(file, KINDS[kind](per_s, pace.load_s + _WARM_S))
        seen_file = driver.log.with_suffix(".npz")
        driver.begin(MODEL, _ROWS, arrivals=str(file), file=str(seen_file))
        driver.end(pace.load_s + _REST_S)
        row = judge(Seen.load(seen_file), kind, share, per_s, truth)
        results.open.append(row)
        say(
            f"open loop: {kind:8} {share:4.0%} = {per_s:8,.0f}/s  p50 {row.tail.p50:7.2f}  "
            f"p99 {row.tail.p99:7.2f} ms  generator late by p99 {row.late.p99:.2f} ms"
        )


def judge(seen: Seen, kind: str, share: float, per_s: float, truth: Truth) -> Open:
    """The figures of one load.

    Args:
        seen: all requests.
        kind: of arrivals.
        share: of the capacity.
        per_s: requests per second that were meant.
        truth: the right answers.

    Raises:
        WrongAnswer: an answer is wrong.
    """
    answered = ~np.isnan(seen.done)
    right = truth.of(MODEL, _ROWS)[np.arange(len(seen.due)) % _ROWS]
    compare(seen.answers[answered], right[answered])
    counts = seen.due >= _WARM_S
    done: Any = seen.done[counts & answered]
    seconds = float(seen.due[-1]) - _WARM_S
    lasted = float(done.max()) - _WARM_S if len(done) else np.inf
    return Open(
        arrivals=kind,
        share=share,
        per_s=per_s,
        seconds=seconds,
        answered_per_s=len(done) / lasted,
        unanswered=int((counts & ~answered).sum()),
        tail=Tail.of(seen.latency_ms[counts]),
        late=Tail.of(seen.late_ms[counts]),
    )
