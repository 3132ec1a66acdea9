"""What a scenario is, and the family of scenarios that share a stage."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from faults.result import Row
from faults.stage import Scale, Stage


@dataclass(frozen=True, slots=True)
class Scenario:
    """One fault.

    Attributes:
        name: of the scenario, for ``--only``, and of its model.
        title: the fault in words.
        play: does it on a stage, and returns what came of it.
        deadline_s: seconds after which it is given up.
    """

    name: str
    title: str
    play: Callable[[Stage, str, str], Row]
    deadline_s: float = 90.0

    def run(self, stage: Stage) -> Row:
        """Plays it."""
        return self.play(stage, self.name, self.title)


@dataclass(frozen=True, slots=True)
class Family:
    """Scenarios that play one after the other on the same stage.

    Attributes:
        name: of the family.
        opened: opens a stage for a scale, and closes it after the block.
        scenarios: in the order of the table.
    """

    name: str
    opened: Callable[[Scale], AbstractContextManager[Stage]]
    scenarios: tuple[Scenario, ...]
