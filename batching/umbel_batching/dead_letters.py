"""Reading dead letters and recorded batches: what failed, why, and with which inputs."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import redis

from umbel_batching import record
from umbel_batching.census import error_text, lane_names
from umbel_batching.keys import lane_keys
from umbel_batching.lanes import slot_of, split_id
from umbel_batching.record import Event, State


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A job that failed for good, with its evidence; times in ms since 1970.

    Attributes:
        batch_id: its last batch.
        worker: who ran that batch.
        replayable: whether its input is still kept.
        history: each loss with a worker, and each replay.
    """

    id: str
    lane: str
    created_at: int
    died_at: int
    attempts: int
    error: str
    batch_id: str
    worker: str
    replayable: bool
    history: list[Event]


class RecordedBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch as it was claimed, kept because a job of it failed or its worker died.

    Attributes:
        job_ids: its jobs, in the order in which they were computed.
        payloads: their encoded inputs, in the same order.
        missing: jobs of the batch whose input is not kept. Jobs that shared the outcome of an
            identical one were not computed, and are not of the batch.
        reason: why it was flushed.
        cause: what became of its worker, if it was lost with it.
    """

    batch_id: str
    lane: str
    worker: str
    reason: str
    started_at: int
    cause: str | None
    job_ids: list[str]
    payloads: list[bytes]
    missing: int


def dead_letters(
    client: redis.Redis, namespace: str, *, lane: str | None = None, limit: int = 100
) -> list[DeadLetter]:
    """The newest dead letters, newest first.

    Args:
        client: any client of the Redis.
        namespace: prefix of every key.
        lane: name of a lane; ``None`` for all lanes.
        limit: most letters to list.
    """
    names = {slot_of(lane): lane} if lane is not None else lane_names(client, namespace)
    found: list[tuple[int, str, str]] = []
    for slot in names:
        key = lane_keys(namespace, slot).dead
        newest = client.zrange(key, 0, limit - 1, desc=True, withscores=True)
        pairs = cast("list[tuple[bytes, float]]", newest)
        found += [(int(died), slot, uid.decode()) for uid, died in pairs]
    found.sort(reverse=True)
    letters = [
        _letter(client, namespace, slot, uid, died, names[slot])
        for died, slot, uid in found[:limit]
    ]
    return [letter for letter in letters if letter is not None]


def dead_letter(client: redis.Redis, namespace: str, job_id: str) -> DeadLetter | None:
    """The dead letter that is job ``job_id``, or ``None``.

    Raises:
        JobNotFound: the text is no job id.
    """
    slot, uid = split_id(job_id)
    keys = lane_keys(namespace, slot)
    died = client.zscore(keys.dead, uid)
    name = cast("bytes | None", client.hget(keys.lane, "name"))
    if died is None or name is None:
        return None
    return _letter(client, namespace, slot, uid, int(died), name.decode())


def _letter(
    client: redis.Redis, namespace: str, slot: str, uid: str, died: int, lane: str
) -> DeadLetter | None:
    keys = lane_keys(namespace, slot)
    raw = cast("bytes | None", client.get(keys.job + uid))
    parsed = record.parse(raw) if raw else None
    if parsed is None or parsed.state is not State.FAILED:
        return None
    worker = cast("bytes | None", client.hget(keys.batch + parsed.batch, "worker"))
    return DeadLetter(
        id=f"{slot}-{uid}",
        lane=lane,
        created_at=parsed.created_ms,
        died_at=died,
        attempts=parsed.attempts,
        error=error_text(parsed) or "",
        batch_id=parsed.batch,
        worker=worker.decode() if worker else "",
        replayable=bool(client.hexists(keys.recording + parsed.batch, uid)),
        history=parsed.history,
    )


def recorded_batch(client: redis.Redis, namespace: str, batch_id: str) -> RecordedBatch | None:
    """The recorded batch ``batch_id``, or ``None`` if it is not kept."""
    for slot, lane in lane_names(client, namespace).items():
        keys = lane_keys(namespace, slot)
        records = cast("dict[bytes, bytes]", client.hgetall(keys.recording + batch_id))
        if records:
            about = cast("dict[bytes, bytes]", client.hgetall(keys.batch + batch_id))
            return _recorded(batch_id, slot, lane, records, about)
    return None


def _recorded(
    batch_id: str, slot: str, lane: str, records: dict[bytes, bytes], about: dict[bytes, bytes]
) -> RecordedBatch:
    twins = {pair.partition(b":")[0] for pair in about.get(b"twins", b"").split()}
    uids = about.get(b"uids", b"").split() or sorted(records)
    composed = [uid for uid in uids if uid not in twins]
    kept: list[Any] = [uid for uid in composed if uid in records]
    cause = about.get(b"cause")
    return RecordedBatch(
        batch_id=batch_id,
        lane=lane,
        worker=about.get(b"worker", b"").decode(),
        reason=about.get(b"reason", b"").decode(),
        started_at=int(about.get(b"started", 0)),
        cause=cause.decode() if cause else None,
        job_ids=[f"{slot}-{uid.decode()}" for uid in kept],
        payloads=[records[uid][record.body_offset(records[uid]) :] for uid in kept],
        missing=len(composed) - len(kept),
    )
