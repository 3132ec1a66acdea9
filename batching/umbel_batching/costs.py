"""What a batch costs by its size, a + b·n milliseconds, learned from batches as they come."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from umbel_batching.lines import PROVEN, Fit, Line, Point, fitted, quantile

#: Seconds after which a batch counts for a third: as fast as that a change of speed is followed.
MEMORY_S: Final = 2.5
#: Seconds after which it counts for a third that a size is slower or faster than the line.
SHAPE_MEMORY_S: Final = 90.0
#: The same for how much they vary, which takes more of them to tell.
SLOW_MEMORY_S: Final = 8.0
#: Batches kept of each class of sizes. They lie apart in time, so that one pause spoils only one.
_KEPT: Final = 24
_APART_S: Final = MEMORY_S / _KEPT
#: Batches older than this say nothing of the speed of now.
_OLD_S: Final = 4 * MEMORY_S
#: Weight of the line as it was, against one batch of now: it decides what batches leave open.
_INERTIA: Final = 0.15
#: Batches of one class that count at most, lest the size in use be all that the line goes by.
_MOST_IN_LINE: Final = 4.0
_ALONE: Final = 0.5
#: Batches that what is known of a class counts for at most, against new ones.
_INSISTENCE: Final = 1.5
#: Classes that rest on less are not told of.
_LEAST_WEIGHT: Final = 0.01
#: Sizes beyond this are no sizes of batches.
_LARGEST: Final = 65_536
#: Least weight in a median: the last batch of a size that is rare does not decide it alone.
_VOICE: Final = 0.5
#: Of so many batches in a row all but one must be off by such a part, for the machine to have
#: become another one.
_VOTES, _TURN = 8, 0.1
#: From the median difference of two batches to the one of ten that is slower than all others, as
#: if they were spread normally: 1.28 standard deviations, each of which is 1.05 such differences.
_SLOW: Final = 1.34
#: Batches without any difference that are taken as seen, lest two that differ say everything.
_CALM: Final = 1.0


#: Weight, size and milliseconds of batches.
_Seen = list[tuple[float, int, float]]


@dataclass(slots=True)
class _Class:
    """Batches of about the same size.

    Attributes:
        seen: when, size and milliseconds of the last ones.
        off: how far they are off the line, as a logarithm.
        weight: number of batches that ``off`` rested on ``at`` that time.
        at: when it was last brought up to date.
        fresh: batches since then.
        size: of its batches, about.
    """

    size: float
    seen: deque[tuple[float, int, float]] = field(default_factory=lambda: deque(maxlen=_KEPT))
    off: float = 0.0
    weight: float = 0.0
    at: float = 0.0
    fresh: int = 0

    def trust(self, now: float) -> float:
        """The weight that is left of what was learned of its shape."""
        return self.weight * math.exp(-(now - self.at) / SHAPE_MEMORY_S)


class Costs:
    """Learns what batches cost. Not safe to be used from several threads at once.

    Sizes fall into classes, a factor of √2 wide, of each of which the last batches are kept. What
    all classes do together is the speed of the machine and is followed within seconds; what one
    of them does alone is its shape and is remembered for minutes. So a size that was found to be
    slow stays known while others are used. All are medians: a pause in one batch changes nothing.
    """

    def __init__(self) -> None:
        self._classes: dict[int, _Class] = {}
        self._line: Line | None = None
        self._slow, self._fitted_at = 1.1, float("-inf")
        self._votes: deque[tuple[float, float]] = deque(maxlen=_VOTES)

    def seed(self, points: Iterable[Point], now_s: float) -> None:
        """Begins with what others know; what is seen here replaces it soon.

        Args:
            points: of the same model on the same kind of device.
            now_s: seconds of a clock that only grows.
        """
        for point in points:
            sound = 1 <= point.size <= _LARGEST and 0 < point.ms < math.inf and point.weight > 0
            if sound:
                known = _Class(point.size, weight=min(point.weight, 1.0), at=now_s)
                known.off = math.log(point.ms)
                self._classes.setdefault(class_of(point.size), known)
        self._line = None
        if self._classes:
            self._line = fitted([_as_point(each, each.off) for each in self._classes.values()])
        for known in self._classes.values():
            known.off -= math.log(self._line.at(known.size)) if self._line else 0.0

    def note(self, size: int, ms: float, now_s: float) -> None:
        """Takes note of one batch.

        Args:
            size: its jobs.
            ms: milliseconds it took.
            now_s: seconds of a clock that only grows.
        """
        if size < 1 or not 0 < ms < math.inf:
            return
        known = self._classes.setdefault(class_of(size), _Class(float(size)))
        if known.seen and now_s - known.seen[-1][0] < _APART_S:
            return
        known.seen.append((now_s, size, ms))
        known.fresh += 1
        if self._line is not None and known.weight >= PROVEN:
            self._votes.append((now_s, math.log(ms / self._line.at(size)) - known.off))
            self._look_for_a_turn()

    def _look_for_a_turn(self) -> None:
        """Begins anew where all of the last batches were faster than foretold, or all slower.

        The machine is another one then. Batches from before the turn would speak against it for
        seconds, and in sizes that were not used since, for longer: that is not their shape.
        """
        offs = sorted(off for _, off in self._votes)
        if len(offs) < _VOTES or self._line is None or (offs[1] < _TURN and offs[-2] > -_TURN):
            return
        speed, since = math.exp(offs[_VOTES // 2]), self._votes[0][0]
        self._line = Line(self._line.fixed * speed, self._line.per_job * speed)
        self._votes.clear()
        for known in self._classes.values():
            while known.seen and known.seen[0][0] < since:
                known.seen.popleft()

    def fit(self, now_s: float) -> Fit | None:
        """What is known now; ``None`` as long as nothing was seen.

        Args:
            now_s: seconds of a clock that only grows.
        """
        recent = {name: _recent(each, now_s) for name, each in self._classes.items()}
        recent = {name: seen for name, seen in recent.items() if seen}
        if self._line is None:
            self._line = self._first(recent)
        if self._line is None:
            return None
        weights = {
            name: sum(math.exp((at - now_s) / MEMORY_S) for at, _, _ in self._classes[name].seen)
            for name in recent
        }
        self._follow(recent, weights, now_s)
        line, told, latest = self._line, [], []
        for name, known in sorted(self._classes.items()):
            ms = line.at(known.size) * math.exp(known.off)
            told.append(Point(known.size, ms, known.trust(now_s)))
            if name in recent:
                latest.append(Point(known.size, ms, weights[name]))
        points = tuple(point for point in told if point.weight > _LEAST_WEIGHT)
        largest = max(known.size for known in self._classes.values())
        part = 1 - math.exp((self._fitted_at - now_s) / SLOW_MEMORY_S) if recent else 0.0
        self._slow += part * (_slow(recent, line) - self._slow)
        self._fitted_at = now_s
        return Fit(line, self._slow, largest, points, tuple(latest))

    def _first(self, recent: dict[int, _Seen]) -> Line | None:
        """The line through the first batches; with one size all is taken to be fixed costs."""
        points = []
        for name, seen in recent.items():
            ms = quantile([(weight, took) for weight, _, took in seen], 0.5)
            points.append(Point(self._classes[name].size, ms, len(seen)))
        return fitted(points) if points else None

    def _follow(self, recent: dict[int, _Seen], weights: dict[int, float], now: float) -> None:
        """Moves speed, shape and line towards what was seen since the last time."""
        fresh = {name: seen for name, seen in recent.items() if self._classes[name].fresh}
        if not fresh or self._line is None:
            return
        offs = {
            name: _off(seen, self._line, self._classes[name].off) for name, seen in fresh.items()
        }
        moves = [
            (min(weights[name], _VOTES / 2), off - self._classes[name].off)
            for name, off in offs.items()
            if self._classes[name].weight >= PROVEN
        ]
        # One size alone does not tell whether it is the machine, so half of it is.
        share = _ALONE if len(moves) == 1 else 1.0
        speed = math.exp(share * quantile(moves, 0.5)) if moves else 1.0
        line = Line(self._line.fixed * speed, self._line.per_job * speed)
        for name, off in offs.items():
            known, trust = self._classes[name], self._classes[name].trust(now)
            part = weights[name] / (weights[name] + min(trust, _INSISTENCE))
            known.off += part * (off - math.log(speed) - known.off)
            known.weight, known.at = min(trust + known.fresh, _KEPT), now
            known.size, known.fresh = _size(known, now), 0
        self._line = self._refitted(line, weights, now)
        for known in self._classes.values():
            known.off += math.log(line.at(known.size) / self._line.at(known.size))

    def _refitted(self, line: Line, weights: dict[int, float], now: float) -> Line:
        """The line through all classes, those above all that were used lately."""
        points = [Point(1.0, line.at(1.0), _INERTIA)]
        for name, known in self._classes.items():
            weight = min(known.trust(now), _MOST_IN_LINE)
            if name not in weights:
                weight *= _INERTIA
            points.append(_as_point(known, math.log(line.at(known.size)) + known.off, weight))
        last = max(point.size for point in points)
        return fitted([*points, Point(last, line.at(last), _INERTIA)])


def class_of(size: float) -> int:
    """The class that a size belongs to: each is a factor of √2 wide."""
    return round(2 * math.log2(size))


def _recent(known: _Class, now: float) -> _Seen:
    """Weight, size and milliseconds of the batches of the last seconds."""
    return [
        (max(_VOICE, math.exp((at - now) / MEMORY_S)), size, ms)
        for at, size, ms in known.seen
        if now - at <= _OLD_S
    ]


def _off(seen: _Seen, line: Line, before: float) -> float:
    """How far batches are off the line, by the median.

    Chance makes batches slower, hardly ever faster: that a size is slow is not believed one batch.
    """
    offs = [(weight, math.log(ms / line.at(size))) for weight, size, ms in seen]
    return min(quantile(offs, 0.5), max(before, quantile([*offs, (1.0, before)], 0.5)))


def _size(known: _Class, now: float) -> float:
    seen = _recent(known, now)
    return sum(weight * size for weight, size, _ in seen) / sum(weight for weight, _, _ in seen)


def _as_point(known: _Class, log_ms: float, weight: float | None = None) -> Point:
    return Point(known.size, math.exp(log_ms), known.weight if weight is None else weight)


def _slow(recent: dict[int, _Seen], line: Line) -> float:
    """How many times its usual cost a slow batch has, over all sizes of the last seconds.

    It is told from the differences of batches that followed each other, so that a machine whose
    speed changes does not look like one whose batches vary.
    """
    steps = [(_CALM, 0.0)]
    for seen in recent.values():
        offs = [math.log(ms / line.at(size)) for _, size, ms in seen]
        steps += [
            (weight, abs(off - before))
            for (weight, _, _), off, before in zip(seen[1:], offs[1:], offs[:-1], strict=True)
        ]
    return math.exp(_SLOW * quantile(steps, 0.5))
