"""One scenario at work: its lane, its load, its witness, the moments of its faults."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from faults.load import Load, Verdict
from faults.processes import Process
from faults.result import Row
from faults.rows import computed
from faults.waiting import until
from faults.witness import Witness

if TYPE_CHECKING:  # a trial is made by its stage
    from faults.stage import Stage


class Trial:
    """What a scenario does on a stage, and what came of it.

    Args:
        stage: processes, store and settings.
        name: of the scenario, and of its model.
        title: the fault in words.

    Attributes:
        load: its jobs.
        witness: watches its lane.
        broken: sentences about promises found broken on the way.
    """

    def __init__(self, stage: Stage, name: str, title: str) -> None:
        self.stage, self.name, self.title = stage, name, title
        self.load = Load(stage.client, name, stage.numbers)
        self.witness = Witness(stage.store_settings, f"{name}@1")
        self.broken: list[str] = []
        self._strikes: list[tuple[int, list[str]]] = []

    def strike(self, uids: Iterable[str] = (), *, at_ms: int | None = None) -> None:
        """Notes that a fault happens.

        Args:
            uids: the jobs it holds up; without any the next settled batch counts as recovery.
            at_ms: when, by the server's clock; default: now.
        """
        self._strikes.append((at_ms or self.witness.now_ms(), list(uids)))

    def await_jobs(self, uids: Iterable[str]) -> None:
        """Waits until all of these jobs are terminal."""
        wanted = set(uids)

        def ended() -> bool:
            self.witness.look()
            return self.witness.finished(wanted).keys() == wanted

        until(ended, f"{len(wanted)} jobs that a fault held up have ended")

    def await_done(self, count: int, timeout_s: float = 60.0) -> None:
        """Waits until ``count`` jobs have succeeded or failed."""
        until(lambda: self.witness.done() >= count, f"{count} jobs have ended", timeout_s)

    def await_more(self, count: int) -> None:
        """Waits until ``count`` jobs more have succeeded or failed than now."""
        self.await_done(self.witness.done() + count)

    def check(self, holds: object, promise: str) -> None:
        """Notes a promise that does not hold."""
        if not holds:
            self.broken.append(f"does not hold: {promise}")

    def catch(self, among: Mapping[int, Process], timeout_s: float = 60.0) -> tuple[int, list[str]]:
        """Freezes one of the processes in the middle of a batch.

        Args:
            among: processes by id: workers, or their pool children.
            timeout_s: seconds of patience.

        Returns:
            Its id, and the jobs that it holds.
        """

        def frozen() -> int | None:
            holders = [pid for pid in self.witness.held(among).values() if among[pid].alive()]
            pid = next(iter(holders), None)
            return pid if pid is not None and self.witness.freezes_in_a_batch(pid) else None

        pid = until(frozen, "a worker is inside a batch", timeout_s)
        assert pid is not None
        return pid, list(self.witness.held([pid]))

    def finish(
        self,
        note: str = "",
        *,
        timeout_s: float = 90.0,
        guilty: Mapping[int, str] | None = None,
        allowed_loss: int | None = None,
        drained: bool = True,
    ) -> Row:
        """Collects all results and makes the row.

        Args:
            note: what was done, and what else was seen.
            timeout_s: seconds for all results.
            guilty: rows that must fail, with the kind of failure.
            allowed_loss: see ``Row``.
            drained: whether the lane must be empty in the end, with counters that agree.
        """
        self.load.stop()
        guilty = guilty or {}
        verdict = self.load.collect(timeout_s, sick=guilty)
        if drained:
            self._see_it_drained()
        self.witness.look()
        row = self._row(verdict, guilty, note, allowed_loss)
        self.witness.close()
        return row

    def _row(
        self, verdict: Verdict, guilty: Mapping[int, str], note: str, allowed_loss: int | None
    ) -> Row:
        innocent = verdict.failed.keys() - guilty.keys()
        acquitted = {row for row, kind in guilty.items() if verdict.failed.get(row) != kind}
        twice = [job for job, times in self.witness.published.items() if times > 1]
        known = {number for number, _ in self.load.jobs}
        again = computed(self.stage.notes)
        return Row(
            name=self.name,
            title=self.title,
            accepted=len(self.load.jobs),
            visible=len(self.load.jobs) - len(verdict.lost),
            lost=len(verdict.lost),
            wrong=len(verdict.wrong) + len(innocent) + len(acquitted),
            published_twice=len({job[-32:] for job in twice} | set(self.witness.changed)),
            computed_twice=sum(again[number] > 1 for number in known),
            recoveries=tuple(self._recoveries()),
            note=note,
            allowed_loss=allowed_loss,
            broken=tuple(self.broken),
        )

    def _see_it_drained(self) -> None:
        until(lambda: not self.witness.waiting() and not self.witness.held(), "the lane is empty")
        lane = self.witness.lane()
        ended = lane.succeeded + lane.failed + lane.expired + lane.cancelled
        self.check(
            lane.submitted == ended, f"as many jobs end ({ended}) as begin ({lane.submitted})"
        )

    def _recoveries(self) -> Iterable[float]:
        settles = self.witness.settles()
        for at, uids in self._strikes:
            if uids:
                times = self.witness.finished(uids).values()
                yield from (float(time - at) for time in times if time >= at)
            else:
                place = bisect_right(settles, at)
                yield from (float(time - at) for time in settles[place : place + 1])
