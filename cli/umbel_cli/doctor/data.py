"""Whether this code can read what lies in Redis."""

from __future__ import annotations

import redis

from umbel_batching.identity import identify
from umbel_cli.doctor.findings import Finding, Level, ok, told
from umbel_config.errors import StoreUnsuitable


def judge_layout(client: redis.Redis, namespace: str) -> Finding:
    """Whether the data of the namespace is laid out as this code expects.

    Args:
        client: of the server.
        namespace: prefix of every key.
    """
    try:
        found = identify(client, namespace)
    except StoreUnsuitable as error:
        return told("redis.layout", Level.PROBLEM, str(error))
    words = f"Namespace {namespace}, data layout {found.layout}, store {found.store}"
    return ok("redis.layout", words)
