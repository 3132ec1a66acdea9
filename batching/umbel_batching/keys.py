"""Every Redis key of the batcher, in one place.

Data dictionary. ``N`` is the namespace, ``S`` the slot of a lane. All keys of a lane carry the
hash tag ``{S}``, so that one script finds them on one node of a Redis Cluster.

============================  =======  ==========================================  ===============
key                           type     members                                     lives
============================  =======  ==========================================  ===============
``N:store``                   string   layout of these keys, id of this data       permanent
``N:lanes``                   hash     slot -> lane name                           permanent
``N:wake``                    zset     slot -> next ms it needs a flusher          while lanes work
``N:signal``                  zset     one marker; a blocked flusher pops it       while unread
``N:workers:<queue>``         zset     ``worker|slots`` -> ms its heartbeat lapses 60 s
``N:slots:<queue>``           string   batches its workers can run side by side    60 s
``N:busy:<queue>``            zset     drain token -> ms its slot counts as free   while drains are
``N:stays:<queue>``           zset     slot of an empty lane and token of a drain  while any do
                                       that stays there -> ms until which it does
``N:once:<uid>``              string   slot and fingerprint of a job with an       TTL once terminal
                                       idempotency key
``N:{S}:lane``                hash     name, queue, policy, bytes, counters, rate  permanent
``N:{S}:waiting``             zset     uid -> arrival ms, in the band of its class while jobs wait
                                       and behind the point its length, in 512ths
``N:{S}:deadlines``           zset     uid of a waiting job -> its deadline ms     while jobs wait
``N:{S}:leases``              zset     batch id -> ms the lease runs out           while jobs run
``N:{S}:sent``                zset     drain token -> ms it counts as lost         while unanswered
``N:{S}:drains``              zset     drain token -> ms it counts as dead         while draining
``N:{S}:idle``                zset     token of a drain that stays for work -> ms  while draining
                                       until which it does
``N:{S}:ring:<token>``        list     a mark that calls one of them               1 s
``N:{S}:batch:<batch id>``    hash     who ran it, when, why, and its uids         TTL once settled
``N:{S}:job:<uid>``           string   the job's record, see ``record.py``         TTL once terminal
``N:{S}:tomb:<9 digits>``     string   uid, state, end of jobs that ended          TTL
``N:{S}:dead``                zset     uid of a dead letter -> ms it died          TTL
``N:{S}:recording:<batch>``   hash     uid -> record with input, of a failed batch TTL
``N:{S}:recordings``          zset     ``batch|bytes`` -> ms it was recorded       TTL
``N:{S}:same:<sha-1>``        string   who computes this input, or its outcome     TTL
``N:{S}:cached``              zset     ``sha-1|bytes`` of outcomes -> ms           TTL
``N:{S}:delivery:<uid>``      string   how the callback of a job fares             TTL
``N:{S}:costs``               hash     kind of device -> what its batches take,    1 d
                                       size and wait chosen, until when they hold
``N:receivers``               zset     queue of the outbox -> next ms it is due    while any wait
``N:senders``                 zset     token of a sender -> ms it counts as gone   while sending
``N:outbox:<queue>``          zset     entry or ``=parcel`` -> ms it is due        while any wait
``N:underway:<receiver>``     zset     entry or ``=parcel`` -> ms its lease ends   while any are
``N:parcel:<id>``             string   entries that go out in one POST             until it ended
``N:receiver:<receiver>``     hash     breaker, limit and counters of a receiver   TTL
``N:undelivered``             zset     ``entry queue`` of callbacks given up -> ms TTL
``N:owing``                   hash     receiver -> callbacks that wait, and their  while any wait
                                       bytes under ``receiver bytes``
``N:callbacks``               hash     counters of attempts and what came of them  permanent
``N:reply:<client>``          channel  outcomes pushed to one client               (pub/sub)
============================  =======  ==========================================  ===============

A *receiver* is the authority of a callback's URL, ``host`` or ``host:port``. It has two queues of
the outbox: one named as itself, and ``<receiver>#`` for callbacks that may share a POST. An entry
is slot, uid and, in two digits, how often the job was replayed: each run of a job has a callback of
its own. Behind that stands a hash of the URL, where POSTs are shared.

The permanent keys are bounded by the number of lanes. An empty sorted set does not exist in
Redis, so nothing else is left once a lane is drained, its callbacks are delivered or given up, and
the TTLs have passed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class LaneKeys:
    """The keys of one lane; an id is appended to those that end in a colon."""

    lane: str
    waiting: str
    deadlines: str
    leases: str
    sent: str
    drains: str
    idle: str
    ring: str
    batch: str
    job: str
    tomb: str
    dead: str
    recording: str
    recordings: str
    same: str
    cached: str
    delivery: str
    costs: str


@dataclass(frozen=True, slots=True)
class SharedKeys:
    """The keys that all lanes of a namespace share.

    A uid is appended to ``once``, and the name of a queue, receiver or parcel to those that end in
    a colon.
    """

    store: str
    lanes: str
    wake: str
    signal: str
    slots: str
    busy: str
    stays: str
    once: str
    receivers: str
    senders: str
    outbox: str
    underway: str
    parcel: str
    receiver: str
    undelivered: str
    owing: str
    callbacks: str


@lru_cache(maxsize=64)
def shared_keys(namespace: str) -> SharedKeys:
    """The shared keys of ``namespace``."""
    return SharedKeys(
        store=f"{namespace}:store",
        lanes=f"{namespace}:lanes",
        wake=f"{namespace}:wake",
        signal=f"{namespace}:signal",
        slots=f"{namespace}:slots:",
        busy=f"{namespace}:busy:",
        stays=f"{namespace}:stays:",
        once=f"{namespace}:once:",
        receivers=f"{namespace}:receivers",
        senders=f"{namespace}:senders",
        outbox=f"{namespace}:outbox:",
        underway=f"{namespace}:underway:",
        parcel=f"{namespace}:parcel:",
        receiver=f"{namespace}:receiver:",
        undelivered=f"{namespace}:undelivered",
        owing=f"{namespace}:owing",
        callbacks=f"{namespace}:callbacks",
    )


@lru_cache(maxsize=4096)
def lane_keys(namespace: str, slot: str) -> LaneKeys:
    """The keys of the lane with ``slot`` in ``namespace``."""
    base = f"{namespace}:{{{slot}}}"
    return LaneKeys(
        lane=f"{base}:lane",
        waiting=f"{base}:waiting",
        deadlines=f"{base}:deadlines",
        leases=f"{base}:leases",
        sent=f"{base}:sent",
        drains=f"{base}:drains",
        idle=f"{base}:idle",
        ring=f"{base}:ring:",
        batch=f"{base}:batch:",
        job=f"{base}:job:",
        tomb=f"{base}:tomb:",
        dead=f"{base}:dead",
        recording=f"{base}:recording:",
        recordings=f"{base}:recordings",
        same=f"{base}:same:",
        cached=f"{base}:cached",
        delivery=f"{base}:delivery:",
        costs=f"{base}:costs",
    )


def workers_key(namespace: str, queue: str) -> str:
    """The key of the workers that serve ``queue``."""
    return f"{namespace}:workers:{queue}"


def reply_channel(namespace: str, client: str) -> str:
    """The channel on which the client with id ``client`` hears of its jobs."""
    return f"{namespace}:reply:{client}"
