"""What kind of Redis it is: version, eviction policy, memory, and what its crash would cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import redis
from redis.exceptions import ResponseError

from umbel_cli.doctor.findings import Finding, counted, ok, problem, skipped, told, warning
from umbel_cli.doctor.findings import Level as To
from umbel_cli.render import size_text
from umbel_config.connect import address_of
from umbel_config.errors import StoreUnsuitable
from umbel_config.server import judge

#: Share of ``maxmemory`` in use from which there is a warning, and a problem.
_FULLISH, _FULL = 0.8, 0.95
#: Share of the machine's memory that Redis may use while no limit is set.
_ROOMY = 0.5
_CONFIG: Final = ("appendfsync", "maxmemory-policy", "min-replicas-to-write", "save")
_MINUTE_S = 60
_SAVE_ADVICE = "Run: redis-cli CONFIG SET appendonly yes, and write it into redis.conf"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server says of itself.

    Attributes:
        address: its masked URL.
        info: the answer to ``INFO``.
        config: the answer to ``CONFIG GET``; ``None`` where that is not permitted.
        embedded: whether it is the Redis of ``umbel up``.
    """

    address: str
    info: Mapping[str, Any]
    config: Mapping[str, str] | None
    embedded: bool = False


def ask(client: redis.Redis, *, embedded: bool) -> Facts:
    """Reads the facts.

    Args:
        client: of the server.
        embedded: whether it is the Redis of ``umbel up``.

    Raises:
        RedisError: it cannot be reached, or ``INFO`` is not permitted.
    """
    return Facts(address_of(client), client.info(), _config(client), embedded)


def _config(client: redis.Redis) -> dict[str, str] | None:
    config: dict[str, str] = {}
    try:
        for name in _CONFIG:
            config |= {_text(key): _text(value) for key, value in client.config_get(name).items()}
    except ResponseError:  # not permitted to this user, or renamed by a hosting service
        return None
    return config


def judge_server(facts: Facts) -> Iterator[Finding]:
    """All findings about a server.

    Args:
        facts: what it says of itself.
    """
    yield _kind(facts)
    yield _eviction(facts)
    yield _memory(facts)
    yield _persistence(facts)
    yield _writes(facts)
    yield _replicas(facts)


def _kind(facts: Facts) -> Finding:
    try:
        server = judge(facts.address, facts.info)
    except StoreUnsuitable as error:
        return told("redis.version", To.PROBLEM, str(error))
    name = "Valkey, compatible with Redis" if server.is_valkey else "Redis"
    return ok("redis.version", f"{name} {server.version} at {facts.address}")


def _eviction(facts: Facts) -> Finding:
    policy = facts.info.get("maxmemory_policy") or (facts.config or {}).get("maxmemory-policy")
    if policy is None:
        return skipped("redis.eviction", "The server does not tell its maxmemory-policy")
    if policy == "noeviction":
        return ok("redis.eviction", "noeviction: Redis never throws jobs away")
    return problem(
        "redis.eviction",
        f"maxmemory-policy is {policy}: when memory runs short, Redis throws jobs away",
        "Run: redis-cli CONFIG SET maxmemory-policy noeviction, and write it into redis.conf",
    )


def _memory(facts: Facts) -> Finding:
    used, limit = (int(facts.info.get(name, 0)) for name in ("used_memory", "maxmemory"))
    machine = int(facts.info.get("total_system_memory", 0))
    if limit:
        return _limited(used, limit)
    summary = f"{size_text(used)} used, no limit set"
    if machine:
        summary += f"; the machine has {size_text(machine)}"
    if facts.embedded and used < _ROOMY * machine:
        return ok("redis.memory", summary)
    return warning(
        "redis.memory",
        f"{summary}: when it is full the system kills Redis instead of Redis refusing jobs",
        "Set maxmemory to what Redis may use, for example: redis-cli CONFIG SET maxmemory 4gb",
    )


def _limited(used: int, limit: int) -> Finding:
    share = used / limit
    summary = f"{size_text(used)} of {size_text(limit)} used ({share:.0%})"
    if share < _FULLISH:
        return ok("redis.memory", summary)
    advice = (
        "Raise maxmemory, add workers so that lanes drain, or lower result_ttl_s and "
        "max_queue_bytes"
    )
    if share < _FULL:
        return warning("redis.memory", f"{summary}; when it is full, new jobs are refused", advice)
    return problem("redis.memory", f"{summary}: new jobs are refused, or soon will be", advice)


def _persistence(facts: Facts) -> Finding:
    check, config = "redis.persistence", facts.config or {}
    if facts.info.get("aof_enabled"):
        return _append_only(config.get("appendfsync"))
    intervals = parse_save(config.get("save", ""))
    if intervals:
        changes = int(facts.info.get("rdb_changes_since_last_save", 0))
        return warning(
            check,
            f"Snapshots only: a crash of Redis loses what came in since the last one, up to "
            f"{_duration(intervals[0][0])}; {counted(changes, 'change')} at this moment",
            _SAVE_ADVICE,
        )
    if facts.config is None:
        return warning(
            check,
            "No append-only file; whether there are snapshots cannot be seen (CONFIG GET is not "
            "permitted). A crash of Redis loses at least what came in since the last one",
            "Turn on the append-only file: appendonly yes",
        )
    return problem(
        check,
        "Nothing is kept on disk: a crash or restart of Redis loses all jobs, results and models",
        _SAVE_ADVICE,
    )


def _append_only(fsync: str | None) -> Finding:
    check = "redis.persistence"
    if fsync == "always":
        return ok(check, "AOF always: a crash loses no accepted job")
    if fsync == "everysec":
        return ok(
            check,
            "AOF everysec: a power cut, at worst a crash of Redis, loses the last one or two "
            "seconds of accepted jobs",
        )
    if fsync is None:
        return ok(
            check,
            "AOF is on; how much a power cut loses cannot be seen (CONFIG GET is not permitted)",
        )
    return warning(
        check,
        f"AOF with appendfsync {fsync}: a power cut loses what the system had not written yet, "
        "often 30 s of accepted jobs",
        "Run: redis-cli CONFIG SET appendfsync everysec (or always), and write it into redis.conf",
    )


def _writes(facts: Facts) -> Finding:
    """Whether the last writes to disk went well."""
    info = facts.info
    broken = [
        words
        for name, words in (
            ("aof_last_write_status", "the last write to the append-only file"),
            ("aof_last_bgrewrite_status", "the last rewrite of the append-only file"),
            ("rdb_last_bgsave_status", "the last snapshot"),
        )
        if info.get(name, "ok") != "ok"
    ]
    if not broken:
        return ok("redis.disk", "The last writes to disk went well")
    verb = "has" if len(broken) == 1 else "have"
    return problem(
        "redis.disk",
        f"{' and '.join(broken).capitalize()} {verb} failed: Redis may refuse all writes",
        "Free disk space or mend its permissions, then look at the log of Redis",
    )


def _replicas(facts: Facts) -> Finding:
    check = "redis.replicas"
    there = int(facts.info.get("connected_slaves", 0))
    good = int(facts.info.get("min_slaves_good_slaves", there))
    wanted = int((facts.config or {}).get("min-replicas-to-write", 0))
    if wanted > good:
        return problem(
            check,
            f"{counted(good, 'good replica')}, but min-replicas-to-write asks for {wanted}: writes "
            "are refused",
            "Bring the replicas back, or lower min-replicas-to-write",
        )
    if not there:
        return ok(check, "None: what this server holds is lost with its disk")
    rule = f"; writes need {wanted}" if wanted else ""
    return ok(
        check,
        f"{counted(there, 'replica')}{rule}. They follow a moment later: a failover may lose the "
        "last jobs",
    )


def parse_save(text: str) -> list[tuple[int, int]]:
    """The snapshot rule ``3600 1 300 100`` as pairs of seconds and changes, slowest first.

    Args:
        text: the setting ``save``; empty: no snapshots.
    """
    numbers = [int(word) for word in text.split()]
    return sorted(zip(numbers[::2], numbers[1::2], strict=True), reverse=True)


def _duration(seconds: int) -> str:
    if seconds < _MINUTE_S:
        return f"{seconds} s"
    if seconds < _MINUTE_S**2:
        return f"{seconds / _MINUTE_S:g} min"
    return f"{seconds / _MINUTE_S**2:g} h"


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
