"""Deliveries per second, and how that grows with receivers, senders and results in one POST."""

from __future__ import annotations

import time
from dataclasses import dataclass

from faults.waiting import until

from deliveries.scene import MODEL, Receivers, delivered, rows, stage, start_sender, submit


@dataclass(frozen=True, slots=True)
class Rate:
    """What was measured.

    Attributes:
        receivers: good ones, each answers at once or, if slow, after 10 ms.
        senders: sender processes.
        shared: whether results shared POSTs.
        slow: whether receivers took 10 ms to answer.
        per_s: callbacks delivered per second, from the first to the last.
        posts: POSTs that were made.
        wrong: callbacks that did not arrive exactly once, or with a wrong signature.
    """

    receivers: int
    senders: int
    shared: bool
    slow: bool
    per_s: float
    posts: int
    wrong: int


def measure(
    url: str,
    receivers: int,
    *,
    count: int,
    senders: int = 1,
    shared: bool = False,
    slow: bool = False,
) -> Rate:
    """Computes ``count`` jobs first, then starts senders and lets them deliver.

    Args:
        url: of an empty Redis.
        receivers: how many.
        count: callbacks.
        senders: sender processes.
        shared: whether results share POSTs.
        slow: whether receivers take 10 ms to answer.
    """
    local = Receivers(["slow" if slow else "good"] * receivers)
    with stage(url) as made:
        jobs = []
        for place, target in enumerate(local.urls):
            mine = count // receivers + (place < count % receivers)
            jobs += submit(made.client, target, mine, shared=shared)
        for job in jobs:
            job.wait(60)
        [job.result(30) for job in made.client.submit_many(MODEL, rows(1))]
        for worker in made.workers:
            worker.close()
        made.start("flusher")
        processes = [start_sender(made) for _ in range(senders)]
        until(lambda: delivered(made) > 0, "the first is delivered", 30)
        before, begin = delivered(made), time.monotonic()
        until(lambda: delivered(made) >= count, "all are delivered", 120)
        per_s = (count - before) / (time.monotonic() - begin)
        for process in processes:
            process.close()
    got = local.stop()
    wrong = got.invalid + sum(got.taken[job.id] != 1 for job in jobs)
    return Rate(receivers, senders, shared, slow, per_s, got.posts, wrong)
