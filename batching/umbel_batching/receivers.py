"""Reading receivers and undelivered callbacks for people: who is behind, what was given up, why."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import redis

from umbel_batching import record
from umbel_batching.deliveries import Attempt, Callback, callback_of
from umbel_batching.keys import lane_keys, shared_keys
from umbel_batching.lanes import split_id
from umbel_batching.outbox import Entry, parse_undelivered
from umbel_batching.record import HEAD, Record

#: Failures in a row that open the breaker of a receiver, as the scripts have it.
BREAKS = 5
_PAGE = 1000


class ReceiverStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One receiver at one moment; times in ms since 1970.

    Attributes:
        receiver: ``host`` or ``host:port``.
        pending: callbacks that wait or are under way.
        pending_bytes: bytes of records that are kept for them.
        under_way: POSTs that are being made.
        next_at: when the next one is due; ``None`` where none waits.
        closed_until: its breaker is open, or it asked for time, until then; ``None``: it is not.
        failures: attempts in a row that did not reach it, or that it failed.
        limit: POSTs at the same time that it is trusted with; ``None`` before the first answer.
        delivered: POSTs that it took.
        again: POSTs that are, or were, to be tried again.
        dead: POSTs that were given up.
    """

    receiver: str
    pending: int
    pending_bytes: int
    under_way: int
    next_at: int | None
    closed_until: int | None
    failures: int
    limit: int | None
    delivered: int
    again: int
    dead: int


class Undelivered(msgspec.Struct, frozen=True, kw_only=True):
    """A callback that was given up; times in ms since 1970.

    Attributes:
        id: the job.
        receiver: where it should have gone.
        url: its whole address.
        job_state: how the job ended.
        died_at: when it was given up.
        attempts: how often it was tried.
        log: the latest attempts, oldest first.
    """

    id: str
    receiver: str
    url: str
    job_state: str
    died_at: int
    attempts: int
    log: list[Attempt]


def receiver_statuses(client: redis.Redis, namespace: str) -> list[ReceiverStatus]:
    """Every receiver that is known, by name: those that something waits for, and recent ones.

    Args:
        client: any client of the Redis.
        namespace: prefix of every key.
    """
    keys = shared_keys(namespace)
    seconds, micros = client.time()
    now_ms = seconds * 1000 + micros // 1000
    queues = cast(
        "list[tuple[bytes, float]]", client.zrange(keys.receivers, 0, -1, withscores=True)
    )
    waiting: dict[str, dict[str, int]] = {}
    for queue, due in queues:
        name = queue.decode()
        waiting.setdefault(name.partition("#")[0], {})[name] = int(due)
    recent = (key.decode() for key in client.scan_iter(match=f"{keys.receiver}*", count=_PAGE))
    names = waiting.keys() | {key.removeprefix(keys.receiver) for key in recent}
    return [
        _status(client, namespace, name, waiting.get(name, {}), now_ms) for name in sorted(names)
    ]


def _status(
    client: redis.Redis, namespace: str, name: str, queues: dict[str, int], now_ms: int
) -> ReceiverStatus:
    keys = shared_keys(namespace)
    pipe = client.pipeline(transaction=False)
    pipe.hgetall(keys.receiver + name)
    pipe.zcount(keys.underway + name, now_ms, "+inf")
    pipe.hmget(keys.owing, name, f"{name} bytes")
    about, under_way, owing = pipe.execute()
    values = {field.decode(): int(float(value)) for field, value in about.items()}
    closed = values.get("open_until", 0)
    return ReceiverStatus(
        receiver=name,
        pending=int(owing[0] or 0),
        pending_bytes=int(owing[1] or 0),
        under_way=under_way,
        next_at=min(queues.values(), default=None),
        closed_until=closed if closed > now_ms else None,
        failures=values.get("failures", 0),
        limit=values.get("limit"),
        delivered=values.get("delivered", 0),
        again=values.get("again", 0),
        dead=values.get("dead", 0),
    )


def undelivered(
    client: redis.Redis,
    namespace: str,
    *,
    host: str | None = None,
    since_ms: int | None = None,
    until_ms: int | None = None,
    limit: int | None = None,
) -> list[Undelivered]:
    """Callbacks that were given up, newest first.

    Args:
        client: any client of the Redis.
        namespace: prefix of every key.
        host: a receiver, or its host alone; ``None`` for all.
        since_ms: given up no earlier; ms since 1970.
        until_ms: given up no later.
        limit: most to list; ``None`` for all.
    """
    found = client.zrange(
        shared_keys(namespace).undelivered,
        "+inf" if until_ms is None else until_ms,
        "-inf" if since_ms is None else since_ms,
        desc=True,
        byscore=True,
        withscores=True,
    )
    letters = []
    for text, died in cast("list[tuple[bytes, float]]", found):
        entry, queue = parse_undelivered(text.decode())
        receiver = queue.partition("#")[0]
        if host is not None and host not in (receiver, _host_of(receiver)):
            continue
        letter = _undelivered(client, namespace, entry, receiver, int(died))
        letters += [letter] if letter else []
        if len(letters) == limit:
            break
    return letters


def _undelivered(
    client: redis.Redis, namespace: str, entry: Entry, receiver: str, died: int
) -> Undelivered | None:
    found = read_callback(client, namespace, entry.job_id)
    parsed, callback = found or (None, None)
    if parsed is None or callback is None or parsed.replays % 100 != entry.replays:
        return None
    return Undelivered(
        id=entry.job_id,
        receiver=receiver,
        url=callback.url,
        job_state=parsed.state.value,
        died_at=died,
        attempts=callback.attempts,
        log=callback.log,
    )


def read_callback(
    client: redis.Redis, namespace: str, job_id: str
) -> tuple[Record, Callback | None] | None:
    """The record of a job, without its body, and its callback; ``None`` for an unknown job.

    Args:
        client: any client of the Redis.
        namespace: prefix of every key.
        job_id: the job.

    Raises:
        JobNotFound: the text is no job id.
    """
    slot, uid = split_id(job_id)
    keys = lane_keys(namespace, slot)
    head = cast("bytes", client.getrange(keys.job + uid, 0, HEAD - 1))
    if not head:
        return None
    annex = cast("bytes", client.getrange(keys.job + uid, HEAD, record.body_offset(head) - 1))
    parsed = record.parse(head + annex)
    delivery: Any = client.get(keys.delivery + uid)
    return parsed, callback_of(parsed, delivery)


def _host_of(receiver: str) -> str:
    host, colon, port = receiver.rpartition(":")
    return host if colon and port.isdigit() else receiver
