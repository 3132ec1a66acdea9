"""A contestant: its servers, whoever asks them, and how its speed and latency are taken."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from suite.processes import Process
from suite.remote import Remote
from suite.truth import Truth

#: Rows with which a contestant is woken up, and the least that is measured.
_WAKE, _LEAST = 8, 16
#: Seconds that drivers have to prepare their rows and connections.
_PREPARED_S = 0.3
#: So many times as many rows at most in the next try to find out how many fill the time.
_GROWTH = 30


@dataclass(slots=True)
class Contestant:
    """One that takes part.

    Attributes:
        name: of it.
        drivers: that ask; several share the rows.
        servers: that answer, frozen while others are measured; none where all share one.
        counts: rows of one measurement, by model, so that it takes about as long as the others'.
        problem: why it is measured no longer; empty while it is.
    """

    name: str
    drivers: Sequence[Remote]
    servers: Sequence[Process] = ()
    counts: dict[str, int] = field(default_factory=dict)
    problem: str = ""

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Lets it run while the block runs."""
        for process in self.servers:
            process.thaw()
        try:
            yield
        finally:
            for process in self.servers:
                process.freeze()

    def per_s(self, model: str, count: int, truth: Truth) -> float:
        """Rows per second, all of them at once; the answers are checked.

        Args:
            model: whose rows.
            count: how many.
            truth: the right answers.

        Raises:
            DriverFailed: it raised, ended or got stuck.
            WrongAnswer: an answer is wrong.
        """
        share = max(1, count // len(self.drivers))
        at = time.monotonic() + _PREPARED_S  # else the first would be done before the last begins
        for driver in self.drivers:
            driver.begin(model, share, at=at)
        told = [driver.end() for driver in self.drivers]
        for driver in self.drivers:
            truth.check(model, driver.answers())
        began: float = min(each["began"] for each in told)
        ended: float = max(each["ended"] for each in told)
        return share * len(self.drivers) / (ended - began)

    def times_ms(
        self, model: str, count: int, truth: Truth, pauses_s: Sequence[float] | None = None
    ) -> list[float]:
        """How long each row takes, one after the other.

        Args:
            model: whose rows.
            count: how many.
            truth: the right answers.
            pauses_s: idle seconds before each.

        Raises:
            DriverFailed: it raised, ended or got stuck.
            WrongAnswer: an answer is wrong.
        """
        driver = self.drivers[0]
        driver.begin(model, count, each=True, pauses_s=pauses_s)
        told = driver.end()
        truth.check(model, driver.answers())
        times: list[float] = told["times_ms"]
        return times

    def wake(self, model: str, truth: Truth) -> None:
        """Has it answer some rows, which do not count."""
        self.per_s(model, _WAKE * len(self.drivers), truth)

    def fit(self, model: str, aim_s: float, most: int, truth: Truth) -> None:
        """Finds out how many rows take about so long.

        Args:
            model: whose rows.
            aim_s: seconds.
            most: rows.
            truth: the right answers.
        """
        count = _LEAST * len(self.drivers)
        for part in (0.1, 0.3, 1.0):
            wanted = int(self.per_s(model, count, truth) * aim_s * part)
            count = min(max(wanted, _LEAST), count * _GROWTH, most)
        self.counts[model] = count
