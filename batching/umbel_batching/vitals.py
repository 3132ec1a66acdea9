"""Whether flushers keep up: batches that nobody has taken back although their lease ran out."""

from __future__ import annotations

from typing import cast

import redis

from umbel_batching.census import lane_names
from umbel_batching.keys import lane_keys


def overdue_batches(client: redis.Redis, namespace: str, grace_ms: int) -> dict[str, int]:
    """Batches by lane whose lease ran out more than ``grace_ms`` ago; only lanes that have some.

    Args:
        client: any client of the Redis.
        namespace: prefix of every key.
        grace_ms: milliseconds in which flushers may still be on their way.
    """
    seconds, micros = client.time()
    before = seconds * 1000 + micros // 1000 - grace_ms
    names = lane_names(client, namespace)
    pipe = client.pipeline(transaction=False)
    for slot in names:
        pipe.zcount(lane_keys(namespace, slot).leases, "-inf", f"({before}")
    pairs = zip(names.values(), cast("list[int]", pipe.execute()), strict=True)
    return {lane: count for lane, count in sorted(pairs) if count}
