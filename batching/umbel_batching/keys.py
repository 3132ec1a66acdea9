"""Every Redis key of the batcher, in one place.

Data dictionary. ``N`` is the namespace, ``S`` the slot of a lane. All keys of a lane carry the
hash tag ``{S}``, so that one script finds them on one node of a Redis Cluster.

============================  =======  ==========================================  ===============
key                           type     members                                     lives
============================  =======  ==========================================  ===============
``N:lanes``                   hash     slot -> lane name                           permanent
``N:wake``                    zset     slot -> next ms it needs a flusher          while lanes work
``N:signal``                  zset     one marker; a blocked flusher pops it       while unread
``N:workers:<queue>``         zset     ``worker|slots`` -> ms its heartbeat lapses 60 s
``N:{S}:lane``                hash     name, queue, policy, bytes, counters, rate  permanent
``N:{S}:waiting``             zset     uid -> arrival ms                           while jobs wait
``N:{S}:leases``              zset     batch id -> ms the lease runs out           while jobs run
``N:{S}:sent``                zset     drain token -> ms it counts as lost         while unanswered
``N:{S}:drains``              zset     drain token -> ms it counts as dead         while draining
``N:{S}:batch:<batch id>``    hash     who ran it, when, why, and its uids         TTL once settled
``N:{S}:job:<uid>``           string   the job's record, see ``record.py``         TTL once terminal
``N:reply:<client>``          channel  outcomes pushed to one client               (pub/sub)
============================  =======  ==========================================  ===============

The permanent keys are bounded by the number of lanes. An empty sorted set does not exist in
Redis, so nothing else is left once a lane is drained and the TTLs have passed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class LaneKeys:
    """The keys of one lane; ``job`` and ``batch`` are prefixes that an id is appended to."""

    lane: str
    waiting: str
    leases: str
    sent: str
    drains: str
    batch: str
    job: str


@dataclass(frozen=True, slots=True)
class SharedKeys:
    """The keys that all lanes of a namespace share."""

    lanes: str
    wake: str
    signal: str


@lru_cache(maxsize=64)
def shared_keys(namespace: str) -> SharedKeys:
    """The shared keys of ``namespace``."""
    return SharedKeys(
        lanes=f"{namespace}:lanes", wake=f"{namespace}:wake", signal=f"{namespace}:signal"
    )


@lru_cache(maxsize=4096)
def lane_keys(namespace: str, slot: str) -> LaneKeys:
    """The keys of the lane with ``slot`` in ``namespace``."""
    base = f"{namespace}:{{{slot}}}"
    return LaneKeys(
        lane=f"{base}:lane",
        waiting=f"{base}:waiting",
        leases=f"{base}:leases",
        sent=f"{base}:sent",
        drains=f"{base}:drains",
        batch=f"{base}:batch:",
        job=f"{base}:job:",
    )


def workers_key(namespace: str, queue: str) -> str:
    """The key of the workers that serve ``queue``."""
    return f"{namespace}:workers:{queue}"


def reply_channel(namespace: str, client: str) -> str:
    """The channel on which the client with id ``client`` hears of its jobs."""
    return f"{namespace}:reply:{client}"
