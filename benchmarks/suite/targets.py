"""What umbel must reach, held against what one run measured: passes, or falls short."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from suite.names import BATCHES, BULK, CELERY, MOSEC, RAW
from suite.results import Results

_RATIO, _MS = "{:.2f} x", "{:.1f} ms"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of the table of targets.

    Attributes:
        what: is measured.
        target: in words.
        figure: in words; empty if it was not measured.
        passes: whether the target is met; ``None`` if it was not measured.
    """

    what: str
    target: str
    figure: str
    passes: bool | None

    @property
    def word(self) -> str:
        """The verdict in words."""
        return {True: "pass", False: "falls short", None: "not measured"}[self.passes]


def verdicts(results: Results) -> list[Verdict]:
    """All targets, in the order of the table.

    Args:
        results: of a run.
    """
    return [*_throughput(results), *_latency(results), *_store(results), _idle(results)]


def ratio(results: Results, one: str, other: str, model: str) -> float | None:
    """How many times as fast one contestant is as another, by their medians.

    Args:
        results: of a run.
        one: name of a contestant.
        other: the same.
        model: of both.
    """
    first, second = results.rate(one, model), results.rate(other, model)
    return first.median / second.median if first and second else None


def _throughput(results: Results) -> Iterator[Verdict]:
    targets = (("tiny", CELERY, 40), ("tiny", BATCHES, 25), ("tiny", MOSEC, 1), ("mid", RAW, 0.8))
    for model, peer, least in targets:
        found = ratio(results, BULK, peer, model)
        yield _at_least(f"`{model}`, end to end, {BULK}: against {peer}", least, found)


def _latency(results: Results) -> Iterator[Verdict]:
    yield _at_most("one client, closed loop, warm lane: p50", 3, results.closed_p50(BULK), _MS)
    first = results.first_job
    what = "first job on an idle lane without any wait (`max_wait_ms` 0): p50"
    yield _at_most(what, 10, first.p50 if first else None, _MS)


def _store(results: Results) -> Iterator[Verdict]:
    depth = results.depth
    beyond = depth.bytes_each - depth.payload if depth else None
    yield _at_most("Redis for a queued job, beyond its payload", 600, beyond, "{:.0f} bytes")
    deep = f"{depth.deep:,}" if depth else "1,000,000"
    for at, what in enumerate(("submit", "claim")):
        sentence = f"{what} at a depth of {deep}, against 10,000"
        yield _at_least(sentence, 0.8, depth.ratios[at] if depth else None)


def _idle(results: Results) -> Verdict:
    cores = results.idle_cores
    percent = None if cores is None else 100 * cores
    what = "idle system: worker with its flusher"
    return _judge(what, "< 1 % of a core", percent, "{:.2f} %", lambda found: found < 1)


def _at_least(what: str, least: float, found: float | None) -> Verdict:
    return _judge(what, f"≥ {least:g} x", found, _RATIO, lambda value: value >= least)


def _at_most(what: str, most: float, found: float | None, form: str) -> Verdict:
    unit = form.partition("}")[2]
    return _judge(what, f"≤ {most:g}{unit}", found, form, lambda value: value <= most)


def _judge(
    what: str, target: str, found: float | None, form: str, passes: Callable[[float], bool]
) -> Verdict:
    if found is None:
        return Verdict(what, target, "", None)
    return Verdict(what, target, form.format(found), passes(found))
