"""The models that one process holds: who uses them, what they take, and which one goes first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final, Literal

from umbel_batching.lanes import split_name
from umbel_registry import LoadedModel
from umbel_worker.warmup import Warm

State = Literal["loading", "ready", "failed"]
#: Seconds that a model which could not be loaded is remembered.
_REMEMBER_FAILED_S: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """One model of a process at one moment.

    Attributes:
        name: ``model@version``.
        digest: of its manifest; empty while that is not known.
        state: how far it is.
        since_ms: wall clock at which it came into that state.
        mb: memory it takes, as measured; 0 unless it is ready.
        load_s: seconds that fetching, checking and loading took.
        warm_s: seconds that running it with made-up rows took.
        device: where it runs; empty unless it is ready.
        error: why it failed; empty unless it did.
        used_ms: wall clock of its last use; 0 before the first.
        pinned: whether it stays once it is loaded.
    """

    name: str
    digest: str
    state: State
    since_ms: int
    mb: float
    load_s: float
    warm_s: float
    device: str
    error: str
    used_ms: int
    pinned: bool


@dataclass(slots=True, eq=False, kw_only=True)
class Place:
    """The place of one model, from the moment somebody asks for it.

    Attributes:
        name: ``model@version``.
        pinned: as in ``Holding``.
        state: as in ``Holding``.
        since: when it came into that state, by the clock of the holdings.
        since_ms: as in ``Holding``.
        flight: done when the load is; ``None`` when nobody loads.
        digest: as in ``Holding``.
        mb: memory it takes; while it is loading, what is reserved for it.
        warm: the model; ``None`` unless it is ready.
        error: as in ``Holding``.
        users: those who use it now.
        leaving: whether nobody new may use it, because another one waits for its memory.
        used: when somebody last used it, or when it became ready, by the clock of the holdings.
        used_ms: as in ``Holding``.
        sparing: those that do not go for its sake.
    """

    name: str
    pinned: bool
    since: float
    since_ms: int
    state: State = "loading"
    flight: Future[None] | None = field(default_factory=Future)
    digest: str = ""
    mb: float = 0.0
    warm: Warm | None = None
    error: str = ""
    users: int = 0
    leaving: bool = False
    used: float = 0.0
    used_ms: int = 0
    sparing: frozenset[str] = frozenset()

    @property
    def model(self) -> LoadedModel:
        """The model of a place that is ready."""
        if self.warm is None:
            raise LookupError(f"{self.name} is not loaded")
        return self.warm.model

    def shown(self) -> Holding:
        """What is told of it."""
        warm = self.warm
        return Holding(
            name=self.name,
            digest=self.digest,
            state=self.state,
            since_ms=self.since_ms,
            mb=self.mb if warm else 0.0,
            load_s=warm.load_s if warm else 0.0,
            warm_s=warm.warm_s if warm else 0.0,
            device=warm.model.device if warm else "",
            error=self.error,
            used_ms=self.used_ms,
            pinned=self.pinned,
        )


class Holdings:
    """All places of a process and the rules of who must go; knows no lock and loads nothing.

    Args:
        budget: MB that all of them may take together; 0: as much as they like.
        pins: models, ``digits`` or ``digits@3``, that stay once they are loaded.
        clock: seconds that only ever grow.
    """

    def __init__(self, budget: int, pins: Iterable[str], clock: Callable[[], float]) -> None:
        self.budget, self._pins, self._clock = budget, frozenset(pins), clock
        self._places: dict[str, Place] = {}
        #: Grows whenever somebody begins to load or to use a model.
        self.stirred = 0

    def get(self, name: str) -> Place | None:
        """The place of a model; a failure of long ago is forgotten.

        Args:
            name: ``model@version``.
        """
        self._forget()
        return self._places.get(name)

    def shown(self) -> list[Holding]:
        """What is told of all of them, by name."""
        self._forget()
        return [self._places[name].shown() for name in sorted(self._places)]

    def begin(self, name: str) -> Place:
        """A place for a model that is about to be loaded, instead of one where that failed.

        Args:
            name: ``model@version``.
        """
        pinned = not self._pins.isdisjoint((name, split_name(name)[0]))
        place = Place(name=name, pinned=pinned, since=self._clock(), since_ms=_wall_ms())
        self._places[name] = place
        self.stirred += 1
        return place

    def ready(self, place: Place, warm: Warm, mb: float) -> None:
        """Puts a model that was loaded into its place.

        Args:
            place: from ``begin``.
            warm: the model.
            mb: what it takes.
        """
        self._turn(place, "ready")
        place.warm, place.mb, place.used = warm, mb, place.since

    def fail(self, place: Place, error: BaseException) -> None:
        """Notes why a model could not be loaded.

        Args:
            place: from ``begin``.
            error: what was raised.
        """
        self._turn(place, "failed")
        place.mb, place.error = 0.0, f"{type(error).__name__}: {error}"

    def remove(self, place: Place) -> None:
        """Empties a place, if that is not done yet; the model in it is dropped by the caller.

        Args:
            place: to be gone.
        """
        if self._places.get(place.name) is place:
            del self._places[place.name]

    def enter(self, place: Place) -> None:
        """Notes one more user of a place that is ready."""
        place.users += 1
        self.stirred += 1
        self._touch(place)

    def leave(self, place: Place) -> None:
        """Notes that one of them is done."""
        place.users -= 1
        self._touch(place)

    def busy(self, place: Place) -> bool:
        """Whether any other one is in use, or being loaded."""
        return any(each.users or each.state == "loading" for each in self._but(place))

    def total(self) -> float:
        """MB taken and reserved."""
        return sum(place.mb for place in self._places.values())

    def fits(self, place: Place) -> bool:
        """Whether nobody must go for the sake of ``place``; nobody is left to go, maybe.

        Args:
            place: with what it takes, or what is reserved for it.
        """
        return not self.over() or not any(self._movable(place))

    def over(self) -> bool:
        """Whether they take more than they may."""
        return 0 < self.budget < self.total()

    def may_fit(self, place: Place, before: float) -> bool:
        """Whether ``place`` fits if those leave that nobody has used for some time.

        Args:
            place: with what is reserved for it.
            before: those last used until then may go.
        """
        spare = sum(each.mb for each in self._idle(place) if each.used <= before)
        return not self.budget or self.total() - spare <= self.budget

    def take_out(self, place: Place, before: float = float("inf")) -> list[Place]:
        """Removes others that nobody uses, the least recently used first, until ``place`` fits.

        Args:
            place: with what it takes, or what is reserved for it.
            before: those last used until then may go; default: all.

        Returns:
            What was removed; the models in them are dropped by the caller.
        """
        gone = []
        for each in self._idle(place):
            if self.fits(place):
                break
            if each.used <= before:
                self.remove(each)
                gone.append(each)
        return gone

    def ask_to_leave(self, place: Place) -> None:
        """Lets nobody new use those that are in the way, the least recently used first.

        Args:
            place: with what is reserved for it.
        """
        excess = self.total() - self.budget
        for each in sorted(self._movable(place), key=_last_use):
            if excess <= 0:
                break
            each.leaving = True
            excess -= each.mb

    def ask_nobody(self) -> None:
        """Takes that back."""
        for place in self._places.values():
            place.leaving = False

    def users(self) -> list[str]:
        """The names of those that are in use."""
        return sorted(place.name for place in self._places.values() if place.users)

    def _movable(self, place: Place) -> list[Place]:
        return [each for each in self._but(place) if each.state == "ready" and not each.pinned]

    def _idle(self, place: Place) -> list[Place]:
        idle = (each for each in self._movable(place) if not each.users)
        return sorted((each for each in idle if each.name not in place.sparing), key=_last_use)

    def _but(self, place: Place) -> list[Place]:
        return [each for each in self._places.values() if each is not place]

    def _touch(self, place: Place) -> None:
        place.used, place.used_ms = self._clock(), _wall_ms()

    def _turn(self, place: Place, state: State) -> None:
        place.state, place.since, place.since_ms = state, self._clock(), _wall_ms()

    def _forget(self) -> None:
        end = self._clock() - _REMEMBER_FAILED_S
        old = [each for each in self._places.values() if each.state == "failed"]
        for place in old:
            if place.since <= end:
                self.remove(place)


def _last_use(place: Place) -> float:
    return place.used


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
