"""Everything that one run measured, as plain values that can be written and read again."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from suite.quantiles import Spread, Tail


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast one contestant was.

    Attributes:
        contestant: its name.
        model: its name.
        rows: of one round.
        rounds: rows per second, of each.
    """

    contestant: str
    model: str
    rows: int
    rounds: list[float]

    @property
    def spread(self) -> Spread:
        """Over the rounds."""
        return Spread.of(self.rounds)


@dataclass(frozen=True, slots=True)
class Closed:
    """One client that waits for each answer before it asks again.

    Attributes:
        contestant: its name.
        tail: of all rounds, in ms.
        medians: of each round, in ms.
    """

    contestant: str
    tail: Tail
    medians: list[float]


@dataclass(frozen=True, slots=True)
class Open:
    """An open loop.

    Attributes:
        arrivals: their kind.
        share: of the capacity.
        per_s: requests that were due per second.
        seconds: that counted.
        answered_per_s: until the last answer.
        unanswered: requests.
        tail: from due to answered, in ms.
        late: from due to sent, in ms.
    """

    arrivals: str
    share: float
    per_s: float
    seconds: float
    answered_per_s: float
    unanswered: int
    tail: Tail
    late: Tail


@dataclass(frozen=True, slots=True)
class Depth:
    """A short lane and a deep one.

    Attributes:
        short: jobs in the short one.
        deep: jobs in the deep one.
        bytes_each: of Redis, for a job in the deep one.
        payload: bytes of those.
        submit: jobs per second in the short lane and in the deep one, by round.
        claim: the same.
    """

    short: int
    deep: int
    bytes_each: float
    payload: int
    submit: Sequence[Sequence[float]]
    claim: Sequence[Sequence[float]]

    @property
    def ratios(self) -> tuple[float, float]:
        """Of the medians, deep to short: of submit, and of claim."""
        submit, claim = (
            [statistics.median(part) for part in zip(*pairs, strict=True)]
            for pairs in (self.submit, self.claim)
        )
        return submit[1] / submit[0], claim[1] / claim[0]


@dataclass(slots=True)
class Results:
    """All of a run; what was not measured is empty or ``None``.

    Attributes:
        machine: what it ran on.
        versions: of everything, by name.
        quick: whether it was the short form.
        rounds: of everything that is interleaved.
        minutes: it took.
        others_cores: that other programs used meanwhile; ``None`` if that is not known.
        missing: why a contestant was not measured, by name.
        rates: throughput.
        closed: closed loops.
        first_job: of a lane that was idle, in ms.
        idle_cores: of the worker with its flusher.
        idle_s: over so many seconds.
        capacity: of single submits by asyncio, per second; the measure of the open loops.
        open: open loops.
        depth: short lane and deep one.
    """

    machine: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    quick: bool = False
    rounds: int = 0
    minutes: float = 0.0
    others_cores: float | None = None
    missing: dict[str, str] = field(default_factory=dict)
    rates: list[Rate] = field(default_factory=list)
    closed: list[Closed] = field(default_factory=list)
    first_job: Tail | None = None
    idle_cores: float | None = None
    idle_s: float = 0.0
    capacity: float | None = None
    open: list[Open] = field(default_factory=list)
    depth: Depth | None = None

    def rate(self, contestant: str, model: str) -> Spread | None:
        """Rows per second, if they were measured."""
        found = (r for r in self.rates if (r.contestant, r.model) == (contestant, model))
        rate = next(found, None)
        return rate.spread if rate else None

    def closed_p50(self, contestant: str) -> float | None:
        """The median of a closed loop in ms, if it was measured."""
        found = (each.tail.p50 for each in self.closed if each.contestant == contestant)
        return next(found, None)

    def write(self, file: Path) -> None:
        """Writes all of it as JSON.

        Args:
            file: where to.
        """
        text = json.dumps(_rounded(asdict(self)), indent=1, allow_nan=True)
        file.write_text(f"{text}\n", encoding="utf-8")

    @classmethod
    def read(cls, file: Path) -> Self:
        """Reads what ``write`` wrote.

        Args:
            file: where from.
        """
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        tail, depth = found["first_job"], found["depth"]
        found["first_job"] = Tail(**tail) if tail else None
        found["depth"] = Depth(**depth) if depth else None
        found["rates"] = [Rate(**each) for each in found["rates"]]
        found["closed"] = [
            Closed(**each | {"tail": Tail(**each["tail"])}) for each in found["closed"]
        ]
        found["open"] = [
            Open(**each | {"tail": Tail(**each["tail"]), "late": Tail(**each["late"])})
            for each in found["open"]
        ]
        return cls(**found)


def _rounded(value: Any) -> Any:
    """Five figures are more than any of this is worth."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return value
