"""SIGKILL of the sender and of the worker while callbacks are delivered."""

from __future__ import annotations

from dataclasses import dataclass

from faults.stage import Stage
from faults.waiting import until

from deliveries.scene import Receivers, delivered, stage, start_sender, submit


@dataclass(frozen=True, slots=True)
class Killed:
    """What became of the callbacks.

    Attributes:
        jobs: with callbacks.
        kills: of senders and workers.
        lost: callbacks that never arrived.
        twice: callbacks that were taken more than once.
        wrong_ids: jobs whose callback came under more than one ``webhook-id``.
        invalid: POSTs with a wrong signature.
        undelivered: callbacks that the store does not hold as delivered.
    """

    jobs: int
    kills: int
    lost: int
    twice: int
    wrong_ids: int
    invalid: int
    undelivered: int


def play(url: str, *, count: int, kills: int, shared: bool = False) -> Killed:
    """Submits jobs with callbacks, and kills sender and worker in turn.

    Args:
        url: of an empty Redis.
        count: jobs.
        kills: of each of the two.
        shared: whether results share POSTs.
    """
    local = Receivers(["slow", "slow"])
    with stage(url, callback_timeout_s=1.0) as made:
        sender = start_sender(made)
        jobs = []
        for turn in range(kills):
            for target in local.urls:
                jobs += submit(made.client, target, count // kills // 2, shared=shared)
            _await_more(made, count // kills // 10)
            sender.kill()
            if turn % 2 == 0:
                made.workers[0].kill()
                made.ensure_workers(1)
            sender = start_sender(made)
        until(lambda: delivered(made) >= len(jobs), "all are delivered", 120)
        told = [job.info().callback for job in jobs[:: max(1, len(jobs) // 500)]]
        late = sum(callback is None or callback.state != "delivered" for callback in told)
        sender.close()
    got = local.stop()
    return Killed(
        jobs=len(jobs),
        kills=kills + (kills + 1) // 2,
        lost=sum(job.id not in got.taken for job in jobs),
        twice=sum(times > 1 for times in got.taken.values()),
        wrong_ids=sum(len(ids) > 1 for ids in got.message_ids.values()),
        invalid=got.invalid,
        undelivered=late,
    )


def _await_more(made: Stage, count: int) -> None:
    goal = delivered(made) + count
    until(lambda: delivered(made) >= goal, "some arrive", 60)
