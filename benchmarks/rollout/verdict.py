"""Whether a run kept its promise: no job failed, and no event was felt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from rollout import figures
from rollout.figures import ALLOWED, FEWEST, Count, Flip, Latency
from rollout.run import Run
from rollout.story import Event
from rollout.versions import answers


@dataclass(frozen=True, slots=True)
class Verdict:
    """All figures of a run.

    Attributes:
        run: the run.
        count: what became of its jobs.
        steady: latency before anything happened.
        around: latency from each event on.
        flips: how jobs went from version to version.
        quiet_ms: longest time without a result before anything happened.
        silence_ms: the same, of the whole run.
    """

    run: Run
    count: Count
    steady: Latency
    around: list[tuple[Event, Latency]]
    flips: list[Flip]
    quiet_ms: float
    silence_ms: float

    @classmethod
    def of(cls, run: Run) -> Self:
        """Works them out.

        Args:
            run: the run.
        """
        jobs, first = run.jobs, run.events[0].begin
        versions = list(range(1, 1 + max(event.version for event in run.events)))
        return cls(
            run=run,
            count=figures.count(jobs, {version: answers(version) for version in versions}),
            steady=figures.steady(jobs, run.begin, first),
            around=[(event, figures.around(jobs, event)) for event in run.events],
            flips=figures.flips(jobs, run.events, versions),
            quiet_ms=figures.silence(jobs, run.begin, first)[0],
            silence_ms=figures.silence(jobs, first, run.end)[0],
        )

    def ratio(self, latency: Latency) -> float:
        """A 99th percentile, as a multiple of the steady one."""
        return latency.p99 / self.steady.p99

    @property
    def worst(self) -> tuple[Event, Latency]:
        """The event that was felt most."""
        return max(self.around, key=lambda each: each[1].p99)

    def problems(self) -> Iterator[str]:
        """Sentences about what was not as promised."""
        if self.count.bad:
            yield f"not every job was answered, rightly: {self.count}"
        for event, latency in self.around:
            what = f"{event.what} {event.version}"
            if latency.jobs < FEWEST:
                yield f"{what}: {latency.jobs} jobs are too few to judge by"
            elif not self.ratio(latency) <= ALLOWED:
                yield (
                    f"{what}: p99 {latency.p99:.0f} ms is {self.ratio(latency):.1f} x the steady "
                    f"{self.steady.p99:.0f} ms"
                )
