"""Reading lanes and jobs for people: what waits, what runs, and the story of one job."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import msgspec
import redis

from umbel_batching.deliveries import Callback, callback_of
from umbel_batching.keys import lane_keys, shared_keys, workers_key
from umbel_batching.lanes import slot_of, split_name
from umbel_batching.policy import Mode
from umbel_batching.record import Event, Failure, Record, State
from umbel_batching.tuning import Tuned

#: Where the scores of waiting jobs of each class begin, high to low, as the scripts set them.
BANDS = (-(10**13), 0, 10**13)
_BANDS = (("-inf", "(0"), ("0", "(1e13"), ("1e13", "+inf"))
#: Numbers of the field ``tuned``: until when it holds, size, wait.
_CHOICE = 3
_COUNTERS: tuple[str, ...] = ("submitted", "succeeded", "failed", "expired", "cancelled", "batches")
_COUNTERS += ("leases_lost", "shared", "replayed")


class LaneStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One lane at one moment; counters run from the lane's first job.

    Attributes:
        waiting: jobs in the lane.
        waiting_bytes: bytes of their records.
        running: batches under a lease.
        oldest_ms: milliseconds the oldest job has waited; 0 for an empty lane.
        rate: jobs settled per second, as last measured.
        slots: batches that the workers of its queue can run side by side; 0: no worker.
        shared: jobs that succeeded with the outcome of an identical one.
        replayed: dead letters put back into the lane.
        dead: dead letters of the lane.
        mode: ``static``, or ``adaptive``: workers choose size and wait.
        latency_objective_ms: for which they do; 0 for a static lane.
        size_now: most jobs of a batch, as flushers count it now.
        wait_now_ms: longest wait for neighbours now.
        tuned: what was learned and chosen, by kind of device; may be hours old where no worker of
            that kind is left.
    """

    lane: str
    model: str
    version: str
    queue: str
    waiting: int
    waiting_bytes: int
    running: int
    oldest_ms: int
    submitted: int
    succeeded: int
    failed: int
    expired: int
    cancelled: int
    batches: int
    leases_lost: int
    shared: int
    replayed: int
    dead: int
    rate: float
    slots: int
    max_batch_size: int
    max_wait_ms: int
    mode: Mode = "static"
    latency_objective_ms: int = 0
    size_now: int = 0
    wait_now_ms: int = 0
    tuned: list[Tuned] = []


class JobInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The story of one job; times in ms since 1970, durations in ms, ``None`` where unknown yet.

    Attributes:
        flush_reason: why its batch was flushed; ``cache`` for a job whose outcome was remembered.
        callback: how its callback fares; ``None`` for a job that has none.
        history: what befell it beyond its usual way, each loss with its worker for one.
        metadata: what its caller attached to it at submit.
    """

    id: str
    model: str
    version: str
    state: str
    created_at: int
    started_at: int | None
    finished_at: int | None
    batch_id: str | None
    batch_size: int | None
    flush_reason: str | None
    wait_ms: int | None
    compute_ms: float | None
    attempts: int
    worker: str | None
    error: str | None
    callback: Callback | None = None
    priority: str = "normal"
    history: list[Event] = []
    metadata: dict[str, Any]


def lane_names(client: redis.Redis, namespace: str) -> dict[str, str]:
    """The names of all lanes of ``namespace``, by slot."""
    raw = cast("dict[bytes, bytes]", client.hgetall(shared_keys(namespace).lanes))
    return {slot.decode(): name.decode() for slot, name in raw.items()}


def worker_slots(client: redis.Redis, namespace: str, queue: str, now_ms: int) -> int:
    """Batches that the live workers of ``queue`` can run side by side; 0 when there is none.

    Args:
        client: any client of the same Redis.
        namespace: prefix of every key.
        queue: the Celery queue.
        now_ms: the server's time.
    """
    return sum(workers_of(client, namespace, queue, now_ms).values())


def workers_of(client: redis.Redis, namespace: str, queue: str, now_ms: int) -> dict[str, int]:
    """The live workers of ``queue``, ``host:pid``, and how many batches each can run side by side.

    Args:
        client: any client of the same Redis.
        namespace: prefix of every key.
        queue: the Celery queue.
        now_ms: the server's time.
    """
    key = workers_key(namespace, queue)
    members = cast("list[bytes]", client.zrangebyscore(key, now_ms, "+inf"))
    pairs = [member.decode().rpartition("|") for member in members]
    return {worker: int(slots) for worker, _, slots in pairs}


def lane_statuses(client: redis.Redis, namespace: str) -> list[LaneStatus]:
    """The status of every lane of ``namespace``, by name."""
    seconds, micros = client.time()
    now_ms = seconds * 1000 + micros // 1000
    names = sorted(lane_names(client, namespace).items(), key=lambda item: item[1])
    return [_lane_status(client, namespace, slot, name, now_ms) for slot, name in names]


def lane_status(client: redis.Redis, namespace: str, lane: str) -> LaneStatus | None:
    """The status of one lane; ``None`` before its first job.

    Args:
        client: any client of the same Redis.
        namespace: prefix of every key.
        lane: its name.
    """
    slot = slot_of(lane)
    if not client.hexists(shared_keys(namespace).lanes, slot):
        return None
    seconds, micros = client.time()
    return _lane_status(client, namespace, slot, lane, seconds * 1000 + micros // 1000)


def _lane_status(
    client: redis.Redis, namespace: str, slot: str, name: str, now_ms: int
) -> LaneStatus:
    keys = lane_keys(namespace, slot)
    pipe = client.pipeline(transaction=False)
    pipe.hgetall(keys.lane)
    pipe.zcard(keys.waiting)
    pipe.zcard(keys.leases)
    pipe.zcard(keys.dead)
    pipe.hvals(keys.costs)
    for start, end in _BANDS:
        pipe.zrangebyscore(keys.waiting, start, end, start=0, num=1, withscores=True)
    fields, waiting, running, dead, costs, *first = pipe.execute()
    values = {key.decode(): value.decode() for key, value in fields.items()}
    queue = values.get("queue", "")
    model, version = split_name(name)
    return LaneStatus(
        lane=name,
        model=model,
        version=version,
        queue=queue,
        waiting=waiting,
        waiting_bytes=int(values.get("bytes", 0)),
        running=running,
        oldest_ms=_oldest_ms(first, now_ms),
        rate=float(values.get("rate", 0)),
        slots=worker_slots(client, namespace, queue, now_ms),
        dead=dead,
        **_batching(values, costs, now_ms),
        **_counters(values),
    )


def _counters(values: Mapping[str, str]) -> dict[str, Any]:
    return {counter: int(values.get(counter, 0)) for counter in _COUNTERS}


def _batching(values: Mapping[str, str], costs: list[bytes], now_ms: int) -> dict[str, Any]:
    """The bounds of size and wait, and what is in force within them."""
    size, wait = int(values.get("max_batch_size", 0)), int(values.get("max_wait_ms", 0))
    objective = int(values.get("latency_objective_ms", 0))
    told = {"max_batch_size": size, "max_wait_ms": wait, "latency_objective_ms": objective}
    chosen = [int(part) for part in values.get("tuned", "").split()]
    if len(chosen) == _CHOICE and chosen[0] >= now_ms:  # as `in_force` of the scripts has it
        size, wait = max(1, min(size, chosen[1])), min(wait, chosen[2])
    return {
        **told,
        "mode": "adaptive" if objective else "static",
        "size_now": size,
        "wait_now_ms": wait,
        "tuned": [each for each in map(tuned_of, costs) if each] if objective else [],
    }


def tuned_of(raw: bytes) -> Tuned | None:
    """What a worker told of an adaptive lane; ``None`` if that cannot be read.

    Args:
        raw: one value of the hash ``costs``.
    """
    try:
        return msgspec.json.decode(raw.split(b" ", 3)[-1], type=Tuned)
    except (msgspec.MsgspecError, UnicodeDecodeError):  # of another release
        return None


def _oldest_ms(firsts: list[list[tuple[bytes, float]]], now_ms: int) -> int:
    """How long the first of any class has waited."""
    pairs = zip(firsts, BANDS, strict=True)
    arrivals = [math.floor(found[0][1]) - band for found, band in pairs if found]
    return max(0, now_ms - min(arrivals)) if arrivals else 0


def job_info(
    job_id: str,
    lane: str,
    record: Record,
    batch: Mapping[bytes, bytes],
    delivery: bytes | None = None,
) -> JobInfo:
    """Tells the story of a job from its record and the hash of its last batch.

    Args:
        job_id: the job.
        lane: name of its lane.
        record: its record, with its body if it is terminal.
        batch: the hash of its batch; empty when it has none.
        delivery: how its callback fares, as it is stored; ``None`` where nothing is.
    """
    model, version = split_name(lane)
    known = {key.decode(): value.decode() for key, value in batch.items()}
    started = int(known["started"]) if "started" in known else None
    compute_us = known.get("compute_us")
    remembered = record.state is State.SUCCEEDED and record.attempts == 0
    finished = record.finished_ms or (int(known.get("settled", 0)) if record.state.terminal else 0)
    return JobInfo(
        id=job_id,
        model=model,
        version=known.get("ran", version),
        state=record.state.value,
        created_at=record.created_ms,
        started_at=started,
        finished_at=finished or None,
        batch_id=record.batch or None,
        batch_size=int(known["size"]) if "size" in known else None,
        flush_reason="cache" if remembered else known.get("reason"),
        wait_ms=max(0, started - record.created_ms) if started is not None else None,
        compute_ms=int(compute_us) / 1000 if compute_us is not None else None,
        attempts=record.attempts,
        worker=known.get("worker"),
        error=error_text(record),
        callback=callback_of(record, delivery),
        priority=record.priority.value,
        history=record.history,
        metadata=record.metadata,
    )


def error_text(record: Record) -> str | None:
    """Why a job failed, in words; ``None`` for one that did not."""
    if record.state is not State.FAILED or not record.body:
        return None
    failure = msgspec.msgpack.decode(record.body, type=Failure)
    return f"{failure.kind}: {failure.message}"
