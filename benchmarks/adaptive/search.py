"""The highest rate that a setting holds within the objective, and the best static setting."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from adaptive.contestants import ADAPTIVE, OBJECTIVE_MS, SIZES, static
from adaptive.scene import Scene
from umbel_batching.tuning import Tuned

Say = Callable[[str], None]

_STEP_S: Final = 1.0
_SATURATED_S: Final = 0.8
#: How close the rate is found, and between which parts of the saturated rate it is looked for.
_TRIES, _LOW, _HIGH = 5, 0.45, 1.05
#: Static sizes that are looked at closely, and rounds of the last comparison.
_CLOSE, _ROUNDS = 3, 2
#: A batch beside which another one waits must take less than this part of the objective.
_HALF: Final = 0.55


@dataclass(frozen=True, slots=True)
class Duel:
    """A model with the best static setting and adaptive.

    Attributes:
        name: of the model.
        grid: jobs per second within the objective, by static size; 0: looked at coarsely only.
        best: the best static size.
        static: its jobs per second within the objective, by round.
        adaptive: those of adaptive, by round.
        cold: those of adaptive in a worker that had just been started.
        tuned: what was in force at the end.
    """

    name: str
    grid: dict[int, float]
    best: int
    static: list[float]
    adaptive: list[float]
    cold: float
    tuned: Tuned | None

    @property
    def part(self) -> float:
        """What adaptive reaches of the best static setting, by the medians."""
        best = statistics.median(self.static)
        return statistics.median(self.adaptive) / best if best else 0.0


def duel(scene: Scene, say: Say) -> Duel:
    """Finds the best static size by trying, and compares it with adaptive.

    Adaptive comes first, lest it learn from what the grid does.

    Args:
        scene: with an adaptive model that no job has used yet.
        say: is told what goes on.
    """
    scene.submit(1)
    scene.drain()
    scene.saturate(5.0)
    cold = _held(scene, scene.saturate(1.0))
    say(f"{scene.name}: adaptive, just started: {cold:,.0f}/s")
    grid = _grid(scene, say)
    best = max(grid, key=lambda size: grid[size])
    rates: dict[str, list[float]] = {"static": [], "adaptive": []}
    for _ in range(_ROUNDS):
        rates["static"].append(_measured(scene, static(best), 1.0))
        rates["adaptive"].append(_measured(scene, ADAPTIVE, 3.0))
    told = scene.tuned()
    found = Duel(scene.name, grid, best, rates["static"], rates["adaptive"], cold, told)
    say(f"{scene.name}: adaptive {found.part:.2f} of static {best}")
    return found


def _grid(scene: Scene, say: Say) -> dict[int, float]:
    coarse: dict[int, float] = {}
    for size in SIZES:
        scene.govern(static(size))
        rate = scene.saturate(_SATURATED_S)
        fits = size / rate * 1000 <= _HALF * OBJECTIVE_MS
        coarse[size] = rate if fits else 0.0
        say(f"{scene.name}: static {size:5}: {rate:8,.0f}/s{'' if fits else ', too slow a batch'}")
    close = sorted(coarse, key=lambda size: coarse[size], reverse=True)[:_CLOSE]
    grid = dict.fromkeys(SIZES, 0.0)
    for size in close:
        grid[size] = _measured(scene, static(size), _SATURATED_S)
        say(f"{scene.name}: static {size:5}: {grid[size]:8,.0f}/s within {OBJECTIVE_MS} ms")
    return grid


def _measured(scene: Scene, values: Mapping[str, Any], saturated_s: float) -> float:
    scene.govern(values)
    return _held(scene, scene.saturate(saturated_s))


def _held(scene: Scene, saturated: float) -> float:
    """The highest rate at which 95 of 100 jobs end within the objective, by halving."""
    low, high, held = _LOW * saturated, _HIGH * saturated, 0.0
    for _ in range(_TRIES):
        rate = (low + high) / 2
        step = scene.load(rate, _STEP_S)
        if step.p95_ms <= OBJECTIVE_MS and not step.late:
            low, held = rate, max(held, step.per_s)
        else:
            high = rate
    return held
