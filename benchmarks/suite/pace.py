"""How much of everything a run measures: in all ten minutes' worth, or three."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is measured.

    Attributes:
        rounds: of everything that is interleaved.
        aim_s: seconds that a contestant gets for one model in one round.
        sentences: of the model `minilm`, in one round.
        images: at most, in one round.
        requests: of a closed loop, in one round.
        tries: of the first job on an idle lane.
        idle_s: seconds in which the idle system is watched.
        loads: open loops: the kind of arrivals, and the share of the capacity.
        load_s: seconds of each of them.
        deep: jobs in the deep lane.
        turns: rounds on the short lane and the deep one.
    """

    rounds: int
    aim_s: float
    sentences: int
    images: int
    requests: int
    tries: int
    idle_s: float
    loads: tuple[tuple[str, float], ...]
    load_s: float
    deep: int
    turns: int


_POISSON: Final = (("Poisson", 0.3), ("Poisson", 0.6), ("Poisson", 0.8))
FULL: Final = Pace(
    rounds=5,
    aim_s=1.8,
    sentences=192,
    images=512,
    requests=100,
    tries=40,
    idle_s=20.0,
    loads=(*_POISSON, ("constant", 0.6), ("bursty", 0.3)),
    load_s=10.0,
    deep=1_000_000,
    turns=7,
)
QUICK: Final = Pace(
    rounds=3,
    aim_s=0.6,
    sentences=64,
    images=256,
    requests=40,
    tries=10,
    idle_s=6.0,
    loads=_POISSON,
    load_s=3.0,
    deep=100_000,
    turns=3,
)
