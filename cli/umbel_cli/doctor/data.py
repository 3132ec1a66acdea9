"""What lies in Redis: whether this code can read it, and what was given up on."""

from __future__ import annotations

from collections.abc import Mapping

import redis

from umbel_batching.identity import identify
from umbel_batching.vitals import dead_counts
from umbel_cli.doctor.findings import Finding, Level, listed, ok, told, warning
from umbel_config.errors import StoreUnsuitable


def layout(client: redis.Redis, namespace: str) -> Finding:
    """Whether the data of the namespace is laid out as this code expects.

    Args:
        client: of the server.
        namespace: prefix of every key.
    """
    try:
        identity = identify(client, namespace)
    except StoreUnsuitable as error:
        return told("redis.layout", Level.PROBLEM, str(error))
    return ok(
        "redis.layout",
        f"Namespace {namespace}, data layout {identity.layout}, store {identity.store}",
    )


def letters(client: redis.Redis, namespace: str) -> Finding:
    """Whether jobs were given up on.

    Args:
        client: of the server.
        namespace: prefix of every key.
    """
    return judge_letters(dead_counts(client, namespace))


def judge_letters(counts: Mapping[str, int]) -> Finding:
    """What dead letters there are.

    Args:
        counts: dead letters by lane.
    """
    if not counts:
        return ok("lanes.dead", "No dead letters")
    names = [f"{count:,} in {lane}" for lane, count in counts.items()]
    return warning(
        "lanes.dead",
        f"Dead letters: {listed(names)}",
        "See why with umbel dead list; then umbel dead replay ID, or umbel dead drop ID",
    )
