"""Whether this code can read what lies in Redis."""

from __future__ import annotations

import redis

from umbel_batching.identity import known_identity
from umbel_cli.doctor.findings import Finding, Level, ok, told
from umbel_config.errors import StoreUnsuitable


def judge_layout(client: redis.Redis, namespace: str) -> Finding:
    """Whether the data of the namespace is laid out as this code expects; an empty one is left so.

    Args:
        client: of the server.
        namespace: prefix of every key.
    """
    try:
        found = known_identity(client, namespace)
    except StoreUnsuitable as error:
        return told("redis.layout", Level.PROBLEM, str(error))
    if found is None:
        return ok("redis.layout", f"Namespace {namespace} is empty")
    words = f"Namespace {namespace}, data layout {found.layout}, store {found.store}"
    return ok("redis.layout", words)
