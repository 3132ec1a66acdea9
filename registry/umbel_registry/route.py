"""Which version answers a request: weights, the space of keys they share, and shadows."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

#: Points of the space that the versions of a route share; a key falls on one of them.
SPACE = 2**32

Weight = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
#: End (exclusive) of an interval and the version it belongs to; it begins where the last ended.
Interval = tuple[int, str]


class Route(BaseModel):
    """Weighted targets of a model's name.

    Attributes:
        number: grows by one with every change of a model's route; what is measured of versions is
            kept under it.
        weights: the share of each version, relative to their sum.
        table: the intervals of ``SPACE`` that each version owns, by their ends; made by ``spread``.
        shadows: versions that get copies of that fraction of the jobs, whose outputs are compared
            and never seen by a caller.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(0, ge=0)
    weights: dict[str, Weight] = Field(min_length=1)
    table: tuple[Interval, ...] = Field(min_length=1)
    shadows: dict[str, Fraction] = {}

    @model_validator(mode="after")
    def _whole(self) -> Self:
        ends = [end for end, _ in self.table]
        ascending = all(before < after for before, after in pairwise([0, *ends]))
        if (
            not ascending
            or ends[-1] != SPACE
            or {name for _, name in self.table} != {*self.weights}
        ):
            raise ValueError("the table does not share out the whole space among the weights")
        return self

    @classmethod
    def of(
        cls,
        weights: Mapping[str, float],
        *,
        before: Route | None = None,
        shadows: Mapping[str, float] | None = None,
        number: int = 0,
    ) -> Route:
        """A route that moves as few keys as its weights allow.

        Args:
            weights: relative weights by version, each above 0.
            before: the route it takes the place of.
            shadows: fractions of the jobs to copy, by version.
            number: its number.
        """
        table = spread(before.table if before else (), weights)
        return cls(number=number, weights=dict(weights), table=table, shadows=dict(shadows or {}))

    @property
    def versions(self) -> tuple[str, ...]:
        """The versions that answer, the largest share first."""
        return tuple(sorted(self.weights, key=lambda name: (-self.weights[name], name)))

    @property
    def points(self) -> dict[str, int]:
        """How many points of the space each version owns."""
        owned = dict.fromkeys(self.weights, 0)
        for length, name in _pieces(self.table):
            owned[name] += length
        return owned

    @cached_property
    def _ends(self) -> list[int]:
        return [end for end, _ in self.table]

    def at(self, position: int) -> str:
        """The version that owns a point of the space.

        Args:
            position: at least 0, below ``SPACE``.
        """
        return self.table[bisect_right(self._ends, position)][1]

    def share(self, version: str) -> float:
        """The part of the jobs that a version answers, between 0 and 1."""
        return self.weights.get(version, 0.0) / sum(self.weights.values())


def position_of(model: str, key: str) -> int:
    """The point of the space on which a routing key falls; each model has its own order of keys.

    Args:
        model: name of the model.
        key: the routing key.
    """
    digest = hashlib.blake2b(f"{model}\0{key}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")


def shares(weights: Mapping[str, float]) -> dict[str, int]:
    """Points for each version: ``SPACE`` in proportion to the weights, none lost to rounding.

    Args:
        weights: relative weights, all above 0.
    """
    total = sum(weights.values())
    bounds = [round(SPACE * (part / total)) for part in accumulate(weights.values())]
    bounds[-1] = SPACE
    return {
        name: max(1, end - start)
        for name, (start, end) in zip(weights, pairwise([0, *bounds]), strict=True)
    }


def spread(table: Sequence[Interval], weights: Mapping[str, float]) -> tuple[Interval, ...]:
    """Shares out the space anew, and moves no more points than the new weights ask for.

    A version whose share falls gives up just the difference, next to those that grow where it
    can. Hashing of names, by rendezvous for one, moves more as soon as three versions change at
    once. Which keys come back with a step back is for ``edits`` to see to, which knows the tables
    that were.

    Args:
        table: who owns what so far; empty for nobody.
        weights: relative weights of the new route.
    """
    names = {name: place for place, name in enumerate(sorted(weights))}
    wanted = _exact(shares({name: weights[name] for name in names}))
    owned = _pieces(table) or [(SPACE, next(iter(names)))]
    missing = dict(wanted)
    for length, name in owned:
        missing[name] = missing.get(name, 0) - length
    while any(missing.values()):
        owned = _moved(owned, missing)
    return tuple(zip(accumulate(length for length, _ in owned), _names(owned), strict=True))


def moved(before: Route, after: Route) -> float:
    """The part of the keys that one route gives to another version than the other, from 0 to 1.

    Args:
        before: the route that was.
        after: the route that is to be.
    """
    ends = sorted({end for end, _ in (*before.table, *after.table)})
    given = (
        end - start for start, end in pairwise([0, *ends]) if before.at(start) != after.at(start)
    )
    return sum(given) / SPACE


def _exact(points: dict[str, int]) -> dict[str, int]:
    """Takes from the largest what rounding up gave to those that had less than a point."""
    largest = max(points, key=lambda name: points[name])
    points[largest] -= sum(points.values()) - SPACE
    return points


def _pieces(table: Sequence[Interval]) -> list[tuple[int, str]]:
    """The intervals by length."""
    starts = [0, *(end for end, _ in table)]
    return [(end - start, name) for start, (end, name) in zip(starts, table, strict=False)]


def _names(pieces: Sequence[tuple[int, str]]) -> list[str]:
    return [name for _, name in pieces]


def _moved(owned: list[tuple[int, str]], missing: dict[str, int]) -> list[tuple[int, str]]:
    """Moves points once: where one that gives borders on one that takes, else from the end."""
    for place in range(len(owned) - 1):
        left, right = owned[place][1], owned[place + 1][1]
        if missing[left] < 0 < missing[right]:
            return _cut(owned, place, right, missing, at_end=True)
        if missing[right] < 0 < missing[left]:
            return _cut(owned, place + 1, left, missing, at_end=False)
    giver = max(place for place, (_, name) in enumerate(owned) if missing[name] < 0)
    taker = min(name for name, points in missing.items() if points > 0)
    return _cut(owned, giver, taker, missing, at_end=True)


def _cut(
    owned: list[tuple[int, str]], place: int, taker: str, missing: dict[str, int], *, at_end: bool
) -> list[tuple[int, str]]:
    """Gives a part of one piece to ``taker``, and joins neighbours of one owner."""
    length, giver = owned[place]
    points = min(length, -missing[giver], missing[taker])
    missing[giver] += points
    missing[taker] -= points
    kept, given = [(length - points, giver)] if points < length else [], [(points, taker)]
    parts = [*kept, *given] if at_end else [*given, *kept]
    joined: list[tuple[int, str]] = []
    for size, name in [*owned[:place], *parts, *owned[place + 1 :]]:
        if joined and joined[-1][1] == name:
            joined[-1] = (joined[-1][0] + size, name)
        else:
            joined.append((size, name))
    return joined
