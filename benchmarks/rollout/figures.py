"""The arithmetic of a run: what became of the jobs, and how latency fared around each event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rollout.jobs import Fate, Jobs
from rollout.story import Event
from rollout.versions import MODEL, TOLERANCE
from umbel_batching.lanes import slot_of

#: Latency is judged by the jobs that were due in so many seconds.
SLICE_S = 2.0
#: A 99th percentile of fewer jobs says nothing.
FEWEST = 200
#: What an event may do to the 99th percentile.
ALLOWED = 2.0
#: Events that move all jobs to another version.
FLIPS = ("promote", "roll back", "promote again")


@dataclass(frozen=True, slots=True)
class Count:
    """What became of all jobs; ``wrong`` and ``misplaced`` are among those that were answered.

    Attributes:
        jobs: that were due.
        answered: with a result.
        wrong: that is not what the version of their id makes of their input.
        misplaced: that another version ran than that of their id, by their record.
        failed: without a result, by their outcome.
        refused: at submit.
        lost: without an outcome.
    """

    jobs: int
    answered: int
    wrong: int
    misplaced: int
    failed: int
    refused: int
    lost: int

    @property
    def bad(self) -> int:
        """Those that are not as they should be."""
        return self.wrong + self.misplaced + self.failed + self.refused + self.lost


@dataclass(frozen=True, slots=True)
class Latency:
    """Of the jobs that were due in some span, in ms.

    Attributes:
        begin: when the span began, in seconds of the monotonic clock.
        jobs: how many.
        p50: half of them had their result by then.
        p99: of a hundred, all but one.
        worst: all.
    """

    begin: float
    jobs: int
    p50: float
    p99: float
    worst: float


@dataclass(frozen=True, slots=True)
class Flip:
    """How all jobs went over to another version; seconds after the change was made.

    Attributes:
        event: the change.
        first_new: until the first result of the version that they went to.
        last_old: until the last result of the version that they came from.
    """

    event: Event
    first_new: float
    last_old: float


def lane_versions(jobs: Jobs, versions: Sequence[int]) -> NDArray[np.int16]:
    """The version that each job was meant for, by its id; 0 for those without one.

    Args:
        jobs: all.
        versions: that there were.
    """
    known = {slot_of(f"{MODEL}@{version}").encode(): version for version in versions}
    found = (known.get(job_id.partition(b"-")[0], 0) for job_id in jobs.ids.tolist())
    return np.fromiter(found, np.int16, len(jobs))


def count(jobs: Jobs, answers: Mapping[int, NDArray[np.float32]]) -> Count:
    """Holds each result against what its version makes of its input.

    Args:
        jobs: all.
        answers: by version, what it makes of the rows that jobs take in turn.
    """
    meant, right = lane_versions(jobs, list(answers)), np.zeros(len(jobs), np.bool_)
    for version, rows in answers.items():
        places = np.flatnonzero(meant == version)
        off = np.abs(jobs.outputs[places] - rows[places % len(rows)]).max(axis=1)
        right[places] = off <= TOLERANCE
    answered = jobs.fates == Fate.ANSWERED
    return Count(
        jobs=len(jobs),
        answered=int(answered.sum()),
        wrong=int((answered & ~right).sum()),
        misplaced=int((answered & (meant != jobs.versions)).sum()),
        failed=int((jobs.fates == Fate.FAILED).sum()),
        refused=int((jobs.fates == Fate.REFUSED).sum()),
        lost=int((jobs.fates == Fate.LOST).sum()),
    )


def between(jobs: Jobs, begin: float, end: float) -> Latency:
    """Latency of the jobs that were due in a span; one without a result took forever.

    Args:
        jobs: all.
        begin: of the span, in seconds of the monotonic clock.
        end: of the span.
    """
    chosen = (jobs.due >= begin) & (jobs.due < end)
    latency = np.nan_to_num(jobs.latency_ms[chosen], nan=np.inf)
    if not len(latency):
        return Latency(begin, 0, np.nan, np.nan, np.nan)
    p50, p99 = np.percentile(latency, [50, 99], method="higher")
    return Latency(begin, len(latency), float(p50), float(p99), float(latency.max()))


def steady(jobs: Jobs, begin: float, end: float) -> Latency:
    """Latency while nothing happens, whose 99th percentile is that of the median slice.

    So it is compared with its like, and a hiccup in one slice allows nothing to the others.

    Args:
        jobs: all.
        begin: when that began, in seconds of the monotonic clock.
        end: when it was over.
    """
    starts = np.arange(begin, end - SLICE_S / 2, SLICE_S)
    p99 = np.median([between(jobs, at, at + SLICE_S).p99 for at in starts])
    return replace(between(jobs, begin, end), p99=float(p99))


def around(jobs: Jobs, event: Event) -> Latency:
    """Latency from an event on: of the slice of its span with the highest 99th percentile.

    Args:
        jobs: all.
        event: whose span lasts one slice at least.
    """
    end = max(event.end, event.begin + SLICE_S)
    starts = np.arange(event.begin, end - SLICE_S / 2, SLICE_S)
    return max((between(jobs, at, at + SLICE_S) for at in starts), key=lambda each: each.p99)


def flips(jobs: Jobs, events: Sequence[Event], versions: Sequence[int]) -> list[Flip]:
    """How jobs went over at each change of the route.

    Args:
        jobs: all.
        events: all.
        versions: that there were.
    """
    meant, found = lane_versions(jobs, versions), []
    changes = [event for event in events if event.what in FLIPS]
    for at, event in enumerate(changes):
        until = changes[at + 1].begin if at + 1 < len(changes) else np.inf
        here = (jobs.done >= event.begin) & (jobs.done < until)
        new = jobs.done[here & (meant == event.version)]
        old = jobs.done[here & (meant != event.version)]
        found.append(
            Flip(
                event,
                float(new.min() - event.end) if len(new) else np.inf,
                float(old.max() - event.end) if len(old) else 0.0,
            )
        )
    return found


def silence(jobs: Jobs, begin: float, end: float) -> tuple[float, float]:
    """The longest time without any result: its length in ms, and when it ended.

    Args:
        jobs: all.
        begin: where to look, in seconds of the monotonic clock.
        end: until where.
    """
    done = np.sort(jobs.done[(jobs.done >= begin) & (jobs.done < end)])
    if len(done) < 2:
        return np.inf, end
    gaps = np.diff(done)
    place = int(gaps.argmax())
    return float(gaps[place] * 1000), float(done[place + 1])
