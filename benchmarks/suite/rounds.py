"""Throughput and closed loops of all contestants, interleaved: each has its turn in each round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from suite.contestant import Contestant
from suite.field import PROBLEMS, Field
from suite.names import BULK, MODELS, PEERS, RAW
from suite.pace import Pace
from suite.quantiles import Spread, Tail
from suite.results import Closed, Rate, Results
from suite.truth import Truth

#: More rows than these in one measurement would only fill the memory.
_MOST: Final = {"tiny": 200_000, "mid": 40_000}
#: Closed loops are asked of these.
_CLOSED: Final = (BULK, *PEERS)
Say = Callable[[str], None]


class Rounds:
    """Measures contestants in turn; one that fails is named, and the others go on.

    Args:
        field: the contestants.
        truth: the right answers.
        pace: how much to measure.
        results: where it is noted.
        say: is told each figure.
    """

    def __init__(self, field: Field, truth: Truth, pace: Pace, results: Results, say: Say) -> None:
        self._field, self._truth, self._pace = field, truth, pace
        self._results, self._say = results, say

    def throughput(self) -> None:
        """Rows per second of `tiny` and `mid`, of everybody."""
        for model in MODELS:
            for each in self._field.contestants:
                self._try(each, partial(self._fit, each, model))
            self._interleave(self._field.contestants, model)

    def whole_models(self) -> None:
        """Sentences and images: umbel beside the bare loop, in rounds of fixed sizes."""
        pair = [self._field.of(RAW), self._field.of(BULK)]
        for model, count in (("minilm", self._pace.sentences), ("image", self._pace.images)):
            for each in pair:
                each.counts[model] = count
                self._try(each, partial(each.wake, model, self._truth))
            self._interleave(pair, model)

    def closed_loops(self) -> None:
        """One client that asks for one row at a time."""
        times: dict[str, list[list[float]]] = {name: [] for name in _CLOSED}
        for _ in range(self._pace.rounds):
            for name in _CLOSED:
                self._try(self._field.of(name), partial(self._loop, name, times[name]))
        for name, rounds in times.items():
            if not rounds or self._field.of(name).problem:
                continue
            tail = Tail.of([each for times_ms in rounds for each in times_ms])
            medians = [Spread.of(times_ms).median for times_ms in rounds]
            self._results.closed.append(Closed(name, tail, medians))
            self._say(f"closed loop: {name:26} p50 {tail.p50:7.2f} ms  p99 {tail.p99:7.2f} ms")

    def _fit(self, contestant: Contestant, model: str) -> None:
        with contestant.awake():
            contestant.fit(model, self._pace.aim_s, _MOST[model], self._truth)

    def _interleave(self, contestants: Sequence[Contestant], model: str) -> None:
        speeds: dict[str, list[float]] = {each.name: [] for each in contestants}
        for turn in range(self._pace.rounds):
            for each in contestants:
                self._try(each, partial(self._speed, each, model, speeds[each.name]))
                if not each.problem:
                    speed = speeds[each.name][-1]
                    self._say(f"round {turn + 1}: {model:6} {each.name:26} {speed:12,.0f}/s")
        self._results.rates += [
            Rate(each.name, model, each.counts[model], speeds[each.name])
            for each in contestants
            if not each.problem
        ]

    def _speed(self, contestant: Contestant, model: str, speeds: list[float]) -> None:
        with contestant.awake():
            contestant.wake(model, self._truth)
            speeds.append(contestant.per_s(model, contestant.counts[model], self._truth))

    def _loop(self, name: str, times: list[list[float]]) -> None:
        contestant = self._field.of(name)
        with contestant.awake():
            contestant.times_ms("tiny", 3, self._truth)
            times.append(contestant.times_ms("tiny", self._pace.requests, self._truth))

    def _try(self, contestant: Contestant, action: Callable[[], object]) -> None:
        if contestant.problem:
            return
        try:
            action()
        except PROBLEMS as error:
            contestant.problem = str(error)
            self._say(f"{contestant.name} is not measured any more: {error}")
