"""What happens under load: versions are pushed, warmed, promoted, rolled back and retired."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from faults.waiting import NeverHappened

from rollout.versions import MODEL
from umbel_registry import TrafficControl
from umbel_registry.fleet import Fleet, Held
from umbel_registry.promotion import promote

#: Seconds between two looks at the workers, and after which one must have unloaded what is retired.
_LOOK_S, _UNLOADED_S = 0.1, 60.0
#: Seconds by which workers are late to tell that something is unloaded.
_TOLD_S = 0.5


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was done, or that followed from it.

    Attributes:
        what: ``push``, ``warm``, ``promote``, ``roll back``, ``promote again``, ``retire`` or
            ``unload``.
        version: the version it is about.
        begin: when it began, in seconds of the monotonic clock.
        end: when it was over.
    """

    what: str
    version: int
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to look on, in seconds.

    Attributes:
        steady: before anything happens.
        between: after each event.
        rounds: how often the whole story is told.
    """

    steady: float = 20.0
    between: float = 5.0
    rounds: int = 3


@dataclass(slots=True)
class Story:
    """Plays the events, and notes when each was.

    Args:
        control: of the routes.
        fleet: the workers.
        push: pushes a version; returns when it is registered.
        pace: how long to look on.
        say: is told each event.

    Attributes:
        begin: when it began.
        events: what happened so far.
        loads: how each version was loaded, by version and process.
    """

    control: TrafficControl
    fleet: Fleet
    push: Callable[[int], None]
    pace: Pace
    say: Callable[[Event], None]
    begin: float = 0.0
    events: list[Event] = field(default_factory=list)
    loads: dict[int, list[Held]] = field(default_factory=dict)

    def play(self) -> None:
        """Everything, from the steady phase on."""
        self.begin = time.monotonic()
        time.sleep(self.pace.steady)
        for version in range(2, 2 + self.pace.rounds):
            self._roll_out(version)

    def _roll_out(self, version: int) -> None:
        self._do("push", version, lambda: self.push(version))
        asked = time.monotonic()
        promote(self.control, self.fleet, MODEL, str(version), pause_s=_LOOK_S)
        flipped = time.monotonic()
        self.loads[version] = self._held(version)
        self._note(Event("warm", version, asked, flipped))
        self._note(Event("promote", version, flipped, flipped))
        time.sleep(self.pace.between)
        self._do("roll back", version - 1, lambda: self.control.roll_back(MODEL, why="to try it"))
        self._do("promote again", version, lambda: self._promote(version))
        self._do("retire", version - 1, lambda: self.control.retire(MODEL, str(version - 1)))
        self._await_unloaded(version - 1)
        time.sleep(self.pace.between)

    def _promote(self, version: int) -> None:
        promote(self.control, self.fleet, MODEL, str(version), pause_s=_LOOK_S)

    def _do(self, what: str, version: int, action: Callable[[], object]) -> None:
        begin = time.monotonic()
        action()
        self._note(Event(what, version, begin, time.monotonic()))
        time.sleep(self.pace.between)

    def _note(self, event: Event) -> None:
        self.events.append(event)
        self.say(event)

    def _await_unloaded(self, version: int) -> None:
        end = time.monotonic() + _UNLOADED_S
        while self._held(version):
            if time.monotonic() > end:
                raise NeverHappened(f"no worker unloaded version {version}")
            time.sleep(_LOOK_S)
        now = time.monotonic()
        self._note(Event("unload", version, now - _TOLD_S, now))

    def _held(self, version: int) -> list[Held]:
        found: Sequence[Held | None] = [
            report.of(MODEL, str(version)) for report in self.fleet.reports()
        ]
        return [held for held in found if held is not None]
