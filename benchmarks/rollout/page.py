"""The figures of a run in words and tables, for docs/rollouts.md."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator

from faults.page import machine

from rollout.company import mean
from rollout.figures import ALLOWED, SLICE_S, Latency
from rollout.plot import PICTURE
from rollout.story import Event
from rollout.verdict import Verdict

BEGIN, END = "<!-- rollout:begin -->", "<!-- rollout:end -->"
_WIDTH = 128
#: From the page to the picture.
_LINK = f"{PICTURE.parent.name}/{PICTURE.name}"
#: What each event is, for readers who have not seen the code.
_MEANING = {
    "push": "push: checked and tried, on this machine, at the lowest priority",
    "warm": "warm: the worker loads it and runs it once",
    "promote": "promote: all jobs go to it",
    "roll back": "roll back: all jobs go to the one before",
    "promote again": "promote again",
    "retire": "retire the one before",
    "unload": "the worker unloads that",
}


def text(verdict: Verdict) -> str:
    """Everything that stands between the markers.

    Args:
        verdict: of a complete run.
    """
    parts = [
        f"![Latency of every job, by the version that answered]({_LINK})",
        _wrapped(_jobs(verdict)),
        "\n".join(_table(verdict)),
        _wrapped(_steady(verdict)),
        _wrapped(_waits(verdict)),
        _wrapped(_company(verdict)),
    ]
    return "\n\n".join(parts)


def _wrapped(paragraph: str) -> str:
    return textwrap.fill(paragraph, _WIDTH, break_on_hyphens=False)


def _jobs(verdict: Verdict) -> str:
    count = verdict.count
    return (
        f"{count.jobs:,} jobs in {verdict.run.jobs.due[-1] - verdict.run.jobs.due[0]:.0f} s, "
        f"{verdict.run.per_s:g} each second: {count.answered:,} answered, {count.wrong} wrong or "
        f"by a mix of versions, {count.misplaced} by another version than that of their id, "
        f"{count.failed} failed, {count.refused} refused, {count.lost} lost."
    )


def _steady(verdict: Verdict) -> str:
    steady = verdict.steady
    return (
        f"Before anything happens p50 is {steady.p50:.0f} ms, p99 {steady.p99:.0f} ms in the "
        f"median span of {SLICE_S:g} s, and the slowest of {steady.jobs:,} jobs took "
        f"{steady.worst:.0f} ms. Of each event the table has the p99 of the jobs due in the "
        f"{SLICE_S:g} s from its beginning on (of the worst such span, where it takes longer); "
        f"the promise is at most {ALLOWED:g} x the steady p99. A job's time counts from when it "
        "was due, not from when it could be submitted."
    )


def _table(verdict: Verdict) -> Iterator[str]:
    rounds = len(verdict.run.loads)
    yield f"| event | p99 of {rounds} rounds, ms | ÷ steady p99, at most | slowest job, ms |"
    yield "| --- | ---: | ---: | ---: |"
    for what, meaning in _MEANING.items():
        found = [latency for event, latency in verdict.around if event.what == what]
        values = " · ".join(f"{each.p99:.0f}" for each in found)
        most = max(verdict.ratio(each) for each in found)
        yield f"| {meaning} | {values} | {most:.2f} | {max(each.worst for each in found):.0f} |"


def _waits(verdict: Verdict) -> str:
    held = [each for version in verdict.run.loads.values() for each in version]
    warm = [event.end - event.begin for event, _ in verdict.around if event.what == "warm"]
    first = [flip.first_new for flip in verdict.flips]
    last = [flip.last_old for flip in verdict.flips]
    loads = _range([each.load_s for each in held], lambda value: f"{value * 1000:.0f}")
    warms = _range([each.warm_s for each in held], lambda value: f"{value * 1000:.0f}")
    return (
        f"`promote` waited {_range(warm)} s, of which loading took {loads} ms and warming up "
        f"{warms} ms; the rest is the second in which workers look what is wanted. After a "
        f"change of the route the first result of the new version came within {_range(first)} s, "
        f"the last of the old one within {_range(last)} s: clients look once a second. The "
        f"longest time without any result was {verdict.quiet_ms:.0f} ms before all this and "
        f"{verdict.silence_ms:.0f} ms during it."
    )


def _range(values: list[float], show: Callable[[float], str] = lambda value: f"{value:.1f}") -> str:
    low, high = show(min(values)), show(max(values))
    return low if low == high else f"{low} to {high}"


def _company(verdict: Verdict) -> str:
    run = verdict.run
    whole = mean(run.company, run.begin, run.end)
    before = mean(run.company, run.begin, run.events[0].begin)
    used = ""
    if whole is not None and before is not None:
        used = (
            f" Other programs used {whole:.1f} of the cores meanwhile, {before:.1f} before the "
            "first event."
        )
    return f"Measured with {machine()}.{used}"


def line(event: Event, latency: Latency, verdict: Verdict) -> str:
    """One event in one line, for a terminal.

    Args:
        event: the event.
        latency: from it on.
        verdict: of its run.
    """
    others = mean(verdict.run.company, latency.begin, latency.begin + SLICE_S)
    used = "" if others is None else f"   others {others:.1f} cores"
    return (
        f"{event.what:14} {event.version}   p50 {latency.p50:5.0f} ms   p99 {latency.p99:5.0f} ms"
        f"   x {verdict.ratio(latency):4.2f}   worst {latency.worst:5.0f} ms"
        f"   of {latency.jobs} jobs{used}"
    )
