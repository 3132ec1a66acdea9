"""Whether lanes get on: served, flushed, moving, and with no batch that everybody forgot."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import redis
from redis.exceptions import ResponseError

from umbel_batching.census import LaneStatus, lane_statuses
from umbel_batching.vitals import overdue_batches
from umbel_cli.doctor.findings import Finding, counted, listed, ok, problem, skipped, warning
from umbel_cli.lanes import unserved

#: A job that waits longer than this, and than ten times ``max_wait_ms``, is late.
_LATE_MS: Final = 30_000
#: Flushers take back a batch within two seconds after its lease ran out.
_OVERDUE_MS: Final = 5_000
#: Time between the two looks that tell a lane that stands still.
_BETWEEN_S: Final = 1.0
_FLUSHER: Final = "umbel-flusher"
#: A flusher asks for due lanes every second.
_SILENT_S: Final = 10


@dataclass(frozen=True, slots=True)
class Look:
    """The lanes at one moment.

    Attributes:
        at: by ``time.monotonic``, in seconds.
        lanes: all of them.
    """

    at: float
    lanes: Sequence[LaneStatus]


@dataclass(frozen=True, slots=True)
class Movement:
    """The lanes at two moments, and what stands beside them.

    Attributes:
        before: at the first look.
        now: at the second one.
        overdue: batches whose lease ran out and that nobody took back, by lane.
        flushers: connections of flushers that are not silent; ``None`` where that cannot be seen.
    """

    before: Sequence[LaneStatus]
    now: Sequence[LaneStatus]
    overdue: Mapping[str, int]
    flushers: int | None


def look(client: redis.Redis, namespace: str) -> Look:
    """Looks at all lanes.

    Args:
        client: of the server.
        namespace: prefix of every key.
    """
    return Look(time.monotonic(), lane_statuses(client, namespace))


def look_again(client: redis.Redis, namespace: str, first: Look) -> Movement:
    """Looks a second time, a second after the first where a lane seems to stand still.

    Args:
        client: of the server.
        namespace: prefix of every key.
        first: the first look.
    """
    now = first.lanes
    if any(_late(lane) for lane in first.lanes):
        time.sleep(max(0.0, first.at + _BETWEEN_S - time.monotonic()))
        now = lane_statuses(client, namespace)
    overdue = overdue_batches(client, namespace, _OVERDUE_MS)
    return Movement(first.lanes, now, overdue, _flushers(client))


def judge_lanes(seen: Movement) -> Iterator[Finding]:
    """What the looks mean.

    Args:
        seen: from ``look_again``.
    """
    yield _flusher(seen)
    yield _served(seen.now)
    yield _progress(seen)
    yield _leases(seen)
    yield _dead(seen.now)


def _flushers(client: redis.Redis) -> int | None:
    try:
        clients = client.client_list()
    except ResponseError:  # not permitted to this user
        return None
    return sum(each["name"] == _FLUSHER and int(each["idle"]) <= _SILENT_S for each in clients)


def _flusher(seen: Movement) -> Finding:
    check, count = "lanes.flusher", seen.flushers
    if count is None:
        return skipped(
            check, "Whether a flusher runs cannot be seen: this user may not run CLIENT LIST"
        )
    if count:
        return ok(check, "A flusher is at work")
    advice = "Start one: umbel up, umbel worker (without --no-flusher), or umbel flusher"
    if any(lane.waiting or lane.running for lane in seen.now):
        return problem(check, "No flusher runs: nobody wakes workers for these jobs", advice)
    return warning(check, "No flusher runs: jobs would wait", advice)


def _served(lanes: Sequence[LaneStatus]) -> Finding:
    check = "lanes.served"
    if not lanes:
        return ok(check, "No lane yet: the first job of a model version opens one")
    alone = [lane for lane in lanes if unserved(lane)]
    if not alone:
        return ok(check, f"{counted(len(lanes), 'lane')}, none without the worker it needs")
    queues = sorted({lane.queue for lane in alone})
    names = [f"{lane.lane} ({counted(lane.waiting, 'job')}, queue {lane.queue})" for lane in alone]
    return problem(
        check,
        f"Jobs wait, and no worker serves their queue: {listed(names)}",
        f"Start one: umbel up, or umbel worker --queues {','.join(queues)}",
    )


def _progress(seen: Movement) -> Finding:
    check, before = "lanes.progress", {lane.lane: lane for lane in seen.before}
    late = [lane for lane in seen.now if _late(lane)]
    still = [lane for lane in late if _stands_still(before.get(lane.lane), lane)]
    if still:
        names = [f"{lane.lane} (oldest {lane.oldest_ms / 1000:,.0f} s)" for lane in still]
        return problem(
            check,
            f"Workers are alive, jobs wait, and nothing runs: {listed(names)}",
            "Look at the log of the workers: they may be unable to load the model, or have lost "
            "their connection to the broker. Start them again",
        )
    if late:
        names = [f"{lane.lane} ({counted(lane.waiting, 'job')})" for lane in late]
        return ok(check, f"Workers are busy; jobs wait longer than usual in {listed(names)}")
    return ok(check, "No job waits for long")


def _leases(seen: Movement) -> Finding:
    check = "lanes.leases"
    if not seen.overdue:
        return ok(check, "No batch has outlived its lease")
    batches = {lane: counted(count, "batch", "batches") for lane, count in seen.overdue.items()}
    names = [f"{lane} ({count})" for lane, count in batches.items()]
    return problem(
        check,
        f"Leases have run out and nobody took the batches back: {listed(names)}",
        "Start a flusher: umbel flusher. If one runs, look at its log",
    )


def _dead(lanes: Sequence[LaneStatus]) -> Finding:
    names = [f"{lane.dead:,} in {lane.lane}" for lane in lanes if lane.dead]
    if not names:
        return ok("lanes.dead", "No dead letters")
    return warning(
        "lanes.dead",
        f"Dead letters: {listed(names)}",
        "See why with umbel dead list; then umbel dead replay ID, or umbel dead drop ID",
    )


def _late(lane: LaneStatus) -> bool:
    """Whether a job waits for long although there are workers for it."""
    return lane.slots > 0 and lane.oldest_ms > max(_LATE_MS, 10 * lane.max_wait_ms)


def _stands_still(before: LaneStatus | None, now: LaneStatus) -> bool:
    if before is None or before.running or now.running:
        return False
    return _settled(before) == _settled(now)


def _settled(lane: LaneStatus) -> tuple[int, ...]:
    return lane.batches, lane.succeeded, lane.failed, lane.expired, lane.cancelled
