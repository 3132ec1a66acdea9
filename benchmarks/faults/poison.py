"""Poison: one input in a batch of 64 that fails the model or kills its process."""

from __future__ import annotations

import random
from collections.abc import Callable

from faults.model import MEMORY_ROWS, Kind
from faults.result import Row
from faults.rows import BATCH, forwards
from faults.scenario import Scenario
from faults.stage import Stage

_PATIENCE_S = 80.0


def poisoned(kind: Kind, failure: str, batches: int = 3) -> Callable[[Stage, str, str], Row]:
    """The scenario of a kind of poison.

    Args:
        kind: of the guilty rows, one in each batch.
        failure: what the guilty job must fail with.
        batches: how many, one after the other.
    """

    def play(stage: Stage, name: str, title: str) -> Row:
        trial = stage.trial(name, title, max_wait_ms=500)
        stage.ensure_workers(1)
        dice, guilty = random.Random(kind), {}
        for round_ in range(min(batches, stage.scale.strikes)):
            place, at = dice.randrange(BATCH), trial.witness.now_ms()
            numbers = trial.load.submit(BATCH, {place: float(kind)})
            guilty[numbers[place]] = failure
            uids = [job.id[-32:] for _, job in trial.load.jobs[-BATCH:]]
            trial.strike((uid for at, uid in enumerate(uids) if at != place), at_ms=at)
            trial.await_done((round_ + 1) * BATCH, _PATIENCE_S)
        begun = [set(rows) for rows in forwards(stage.notes) if len(rows) == BATCH]
        trial.check(
            all(any(row in rows for rows in begun) for row in guilty),
            f"each guilty job began in a full batch of {BATCH}",
        )
        note = f"{len(guilty)} of {BATCH} x {len(guilty)} jobs fail with {failure}"
        return trial.finish(note, guilty=guilty)

    return play


def hungry(stage: Stage, name: str, title: str) -> Row:
    """The device has memory for a third of a batch."""
    trial = stage.trial(name, title, max_wait_ms=500)
    stage.ensure_workers(1)
    batches = min(3, stage.scale.strikes)
    for round_ in range(batches):
        at = trial.witness.now_ms()
        trial.load.submit(BATCH, dict.fromkeys(range(BATCH), float(Kind.HUNGRY)))
        trial.strike((job.id[-32:] for _, job in trial.load.jobs[-BATCH:]), at_ms=at)
        trial.await_done((round_ + 1) * BATCH, _PATIENCE_S)
    mine = {number for number, _ in trial.load.jobs}
    sizes = [len(rows) for rows in forwards(stage.notes) if mine.issuperset(rows)]
    refused = sum(size > MEMORY_ROWS for size in sizes)
    return trial.finish(f"{refused} forwards of {len(sizes)} raised; none of the jobs failed")


ON_THREADS = (
    Scenario("poison-exception", "poison: raises", poisoned(Kind.RAISES, "ValueError")),
    Scenario("poison-nan", "poison: NaN", poisoned(Kind.NAN, "NotANumber")),
    Scenario("poison-rows", "poison: wrong row count", poisoned(Kind.SHORT, "WrongRowCount")),
    Scenario("poison-memory", "out of memory in the model", hungry),
)
ON_PREFORK = (
    Scenario("poison-exit", "poison: os._exit", poisoned(Kind.EXITS, "WorkerLost", 1), 120),
    Scenario("poison-segfault", "poison: SIGSEGV", poisoned(Kind.SEGFAULTS, "WorkerLost", 1), 120),
)
