"""Whether a Redis server can serve umbel: version, role, memory policy and durability."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import redis
import redis.asyncio

from umbel_config.address import RedisAddress
from umbel_config.errors import StoreUnsuitable
from umbel_config.store_errors import translate_errors

MIN_VERSION: Final = (6, 2)
_ADDRESS_OPTIONS: Final = ("host", "port", "path", "db", "username", "password")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """What ``check_server`` found.

    Attributes:
        address: the masked URL.
        version: the Redis version, or the Redis version that a Valkey is compatible with.
        is_valkey: whether it is a Valkey.
        maxmemory: memory limit in bytes; 0: none.
        maxmemory_policy: what the server does at that limit.
        aof: whether every write goes to an append-only file.
        warnings: sentences about what works now but endangers jobs.
    """

    address: str
    version: str
    is_valkey: bool
    maxmemory: int
    maxmemory_policy: str
    aof: bool
    warnings: tuple[str, ...]


def check_server(client: redis.Redis) -> ServerInfo:
    """Asks the server what it is, and refuses one that cannot serve umbel.

    Args:
        client: from ``connect``.

    Raises:
        StoreUnavailable: Redis cannot be reached.
        StoreRefused: wrong or missing password, or ``INFO`` is not permitted.
        StoreUnsuitable: older than 6.2, a replica, a Sentinel, in cluster mode, or no Redis.
    """
    address = address_of(client)
    with translate_errors(address):
        facts = client.info()
    return judge(address, facts)


async def check_server_async(client: redis.asyncio.Redis) -> ServerInfo:
    """The asyncio twin of ``check_server``.

    Args:
        client: from ``connect_async``.

    Raises:
        StoreUnavailable: Redis cannot be reached.
        StoreRefused: wrong or missing password, or ``INFO`` is not permitted.
        StoreUnsuitable: older than 6.2, a replica, a Sentinel, in cluster mode, or no Redis.
    """
    address = address_of(client)
    with translate_errors(address):
        facts = await client.info()
    return judge(address, facts)


def judge(address: str, facts: Mapping[str, Any]) -> ServerInfo:
    """The verdict on a server.

    Args:
        address: its masked URL.
        facts: the answer to ``INFO``.

    Raises:
        StoreUnsuitable: the server cannot serve umbel.
    """
    version = str(facts.get("redis_version", ""))
    _refuse(address, version, facts)
    policy = str(facts.get("maxmemory_policy", "noeviction"))
    aof = bool(int(facts.get("aof_enabled", 0)))
    return ServerInfo(
        address=address,
        version=version,
        is_valkey=facts.get("server_name") == "valkey",
        maxmemory=int(facts.get("maxmemory", 0)),
        maxmemory_policy=policy,
        aof=aof,
        warnings=tuple(_warnings(policy, aof=aof)),
    )


def address_of(client: redis.Redis | redis.asyncio.Redis) -> str:
    """The masked URL of the Redis that ``client`` talks to, for messages and logs."""
    pool = client.connection_pool
    options = pool.connection_kwargs
    kind: Literal["tcp", "tls", "unix"] = "unix" if "path" in options else "tcp"
    if issubclass(pool.connection_class, (redis.SSLConnection, redis.asyncio.SSLConnection)):
        kind = "tls"
    named = {name: options[name] for name in _ADDRESS_OPTIONS if options.get(name)}
    return RedisAddress(kind=kind, **named).masked


def parse_version(text: str) -> tuple[int, ...]:
    """``"6.2.14"`` as ``(6, 2, 14)``; anything after the numbers is left out."""
    numbers = []
    for part in text.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)


def _refuse(address: str, version: str, facts: Mapping[str, Any]) -> None:
    if parse_version(version) < MIN_VERSION:
        raise StoreUnsuitable(
            f"Redis at {address} is version {version or 'unknown'}; umbel needs Redis 6.2 or "
            "newer, or Valkey. Upgrade it, or use another Redis."
        )
    mode = facts.get("redis_mode", "standalone")
    if mode != "standalone":
        raise StoreUnsuitable(
            f"Redis at {address} runs as {mode}; Celery's broker needs a single primary. "
            "Point UMBEL_REDIS_URL at one."
        )
    if facts.get("role", "master") != "master":
        raise StoreUnsuitable(
            f"Redis at {address} is a read-only replica. Point UMBEL_REDIS_URL at its primary."
        )


def _warnings(policy: str, *, aof: bool) -> Iterator[str]:
    if policy != "noeviction":
        yield (
            f"maxmemory-policy is {policy}: Redis may throw away waiting jobs when memory runs "
            "short. Run: redis-cli CONFIG SET maxmemory-policy noeviction"
        )
    if not aof:
        yield (
            "appendonly is off: a restart of Redis loses the jobs since its last snapshot. "
            "Run: redis-cli CONFIG SET appendonly yes"
        )
