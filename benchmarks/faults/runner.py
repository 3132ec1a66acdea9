"""Plays scenarios family by family, each within its own deadline."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType

from faults.result import Row
from faults.scenario import Family, Scenario
from faults.stage import Scale, Stage
from faults.waiting import NeverHappened


class DeadlinePassed(Exception):
    """A scenario took longer than it may."""


@dataclass(frozen=True, slots=True)
class Runner:
    """Plays scenarios.

    Attributes:
        scale: how much each does.
        begins: called before each.
        ends: called with the row of each.
    """

    scale: Scale
    begins: Callable[[Scenario], None]
    ends: Callable[[Row], None]

    def run(self, families: Collection[Family], only: Collection[str] = ()) -> list[Row]:
        """Plays all scenarios, or those named in ``only``; one that breaks does not stop others."""
        rows: list[Row] = []
        for family in families:
            wanted = [one for one in family.scenarios if not only or one.name in only]
            rows += self._play(family, wanted)
        return rows

    def _play(self, family: Family, wanted: list[Scenario]) -> Iterator[Row]:
        """Plays scenarios on one stage; after one that broke the next gets a new stage."""
        with ExitStack() as stack:
            stage: Stage | None = None
            for scenario in wanted:
                self.begins(scenario)
                try:
                    with deadline(scenario.deadline_s):
                        stage = stage or stack.enter_context(family.opened(self.scale))
                        row = scenario.run(stage)
                except Exception as error:  # noqa: BLE001  (told in its row; the others go on)
                    row = _broken(scenario, error)
                    stack.close()
                    stage = None
                self.ends(row)
                yield row


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raises ``DeadlinePassed`` in the main thread when the block takes longer than ``seconds``."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise DeadlinePassed(f"not over after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    outer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *outer)


def _broken(scenario: Scenario, error: Exception) -> Row:
    if not isinstance(error, DeadlinePassed | NeverHappened):
        traceback.print_exception(error)
    sentence = f"{type(error).__name__}: {error}"
    return Row(name=scenario.name, title=scenario.title, broken=(sentence,))
