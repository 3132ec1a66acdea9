"""The outbox at one moment, for those who judge whether callbacks get on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import redis

from umbel_batching.census import workers_of
from umbel_batching.keys import shared_keys
from umbel_batching.outbox import OUTBOX, outbox_key
from umbel_batching.receivers import ReceiverStatus, receiver_statuses
from umbel_config.settings import Settings


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue of the outbox.

    Attributes:
        receiver: where its callbacks go.
        waiting: callbacks, and parcels of them, that wait or are under way.
        due_ms: when the first one that is not under way is due, in ms since 1970.
    """

    receiver: str
    waiting: int
    due_ms: int


@dataclass(frozen=True, slots=True)
class Outbox:
    """The outbox at one moment.

    Attributes:
        at_ms: that moment by the clock of Redis, in ms since 1970.
        queues: those that anything waits in.
        forgotten: whether callbacks wait, and neither a flusher nor a sender will look at them.
        senders: those that are alive, ``host:pid``.
        receivers: all that are known.
        undelivered: callbacks that were given up and are kept.
    """

    at_ms: int
    queues: Sequence[Queue]
    forgotten: bool
    senders: Sequence[str]
    receivers: Sequence[ReceiverStatus]
    undelivered: int


def look_at_outbox(client: redis.Redis, settings: Settings) -> Outbox:
    """Looks at the outbox, its senders and its receivers.

    Args:
        client: of the server.
        settings: name the namespace, and the queue of the senders.
    """
    keys, space = shared_keys(settings.namespace), settings.namespace
    seconds, micros = client.time()
    now_ms = seconds * 1000 + micros // 1000
    pipe = client.pipeline()  # in one step: scripts change these together
    pipe.zrange(keys.receivers, 0, -1)
    pipe.zscore(keys.wake, OUTBOX)
    pipe.zcount(keys.senders, now_ms, "+inf")
    pipe.zcount(keys.undelivered, now_ms - settings.dead_ttl_s * 1000, "+inf")
    names, next_look, turns, undelivered = pipe.execute()
    return Outbox(
        at_ms=now_ms,
        queues=_queues(client, space, [name.decode() for name in names]),
        forgotten=bool(names) and next_look is None and not turns,
        senders=sorted(workers_of(client, space, settings.callback_queue, now_ms)),
        receivers=receiver_statuses(client, space),
        undelivered=undelivered,
    )


def _queues(client: redis.Redis, namespace: str, names: Sequence[str]) -> list[Queue]:
    pipe = client.pipeline(transaction=False)
    for name in names:
        pipe.zcard(outbox_key(namespace, name))
        pipe.zrange(outbox_key(namespace, name), 0, 0, withscores=True)
    answers = pipe.execute()
    return [
        Queue(name.partition("#")[0], waiting, int(first[0][1]))
        for name, waiting, first in zip(names, answers[::2], answers[1::2], strict=True)
        if first  # else it was emptied meanwhile
    ]
