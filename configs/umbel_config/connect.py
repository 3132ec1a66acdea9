"""Redis clients: the one place where they are made, with explicit timeouts and retries."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, Literal

import redis
import redis.asyncio
from redis.asyncio import retry as async_retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from umbel_config.address import RedisAddress, parse_address
from umbel_config.errors import ConfigError
from umbel_config.server import ServerInfo, address_of, check_server, check_server_async
from umbel_config.settings import Settings
from umbel_config.store_errors import translate_errors

__all__ = [
    "MAX_BLOCK_S",
    "Purpose",
    "ServerInfo",
    "address_of",
    "celery_broker_url",
    "check_server",
    "check_server_async",
    "connect",
    "connect_async",
    "translate_errors",
]

Purpose = Literal["command", "blocking", "pubsub"]

#: Longest wait that a command of a ``blocking`` client may ask the server for, in seconds.
MAX_BLOCK_S: Final = 30.0

#: RESP2: measured on redis-py 8.1 with hiredis, replies are parsed 0 to 25 % faster than RESP3's
#: and a connection costs no HELLO; a server older than 6 still answers, so we can say it is old.
_PROTOCOL: Final = 2
_HEALTH_CHECK_S: Final = 30
_RETRIED: Final = (RedisConnectionError, RedisTimeoutError)
#: With three retries a refused connection is given up after 0.35 s on average; a command whose
#: connection breaks connects anew for each retry, 2 s in all: a supervisor restarts Redis in less.
_BACKOFF: Final = ExponentialWithJitterBackoff(base=0.05, cap=1.0)

_CLASSES: Final = {
    "tcp": redis.Connection,
    "tls": redis.SSLConnection,
    "unix": redis.UnixDomainSocketConnection,
}
_ASYNC_CLASSES: Final = {
    "tcp": redis.asyncio.Connection,
    "tls": redis.asyncio.SSLConnection,
    "unix": redis.asyncio.UnixDomainSocketConnection,
}


def connect(
    target: Settings | str,
    *,
    purpose: Purpose = "command",
    client_name: str | None = None,
    retries: int | None = None,
) -> redis.Redis:
    """A Redis client with its own connection pool; nothing is sent before its first command.

    A command whose reply is lost is sent again: only idempotent scripts and commands may be used.

    Args:
        target: settings with a ``redis_url``, or a Redis URL (then with default timeouts).
        purpose: ``command`` for quick replies; ``blocking`` for commands that wait in the server,
            at most ``MAX_BLOCK_S``; ``pubsub`` for reads that may wait for ever.
        client_name: the name shown by ``CLIENT LIST``.
        retries: overrides the setting ``redis_retries``.

    Raises:
        ConfigError: there is no ``redis_url``, or it cannot be read.
    """
    settings, address = _resolve(target)
    pool = redis.ConnectionPool(
        connection_class=_CLASSES[address.kind],
        retry=Retry(_BACKOFF, _retries(settings, retries), supported_errors=_RETRIED),
        **_options(settings, address, purpose, client_name),
    )
    return redis.Redis.from_pool(pool)


def connect_async(
    target: Settings | str,
    *,
    purpose: Purpose = "command",
    client_name: str | None = None,
    retries: int | None = None,
) -> redis.asyncio.Redis:
    """The asyncio twin of ``connect``; close it with ``aclose()``.

    Args:
        target: as for ``connect``.
        purpose: as for ``connect``.
        client_name: as for ``connect``.
        retries: as for ``connect``.

    Raises:
        ConfigError: there is no ``redis_url``, or it cannot be read.
    """
    settings, address = _resolve(target)
    retry = async_retry.Retry(_BACKOFF, _retries(settings, retries), supported_errors=_RETRIED)
    pool = redis.asyncio.ConnectionPool(
        connection_class=_ASYNC_CLASSES[address.kind],
        retry=retry,
        **_options(settings, address, purpose, client_name),
    )
    return redis.asyncio.Redis.from_pool(pool)


def celery_broker_url(url: str) -> str:
    """The Redis URL in kombu's spelling, for Celery's ``broker_url``; it holds the password.

    Args:
        url: any Redis URL that ``connect`` takes.

    Raises:
        ConfigError: the URL cannot be read.
    """
    return parse_address(url).broker_url


@lru_cache(maxsize=1)
def _default_settings() -> Settings:
    """Timeouts for a bare URL: the defaults alone, whatever file and environment say."""
    return Settings.model_construct()


def _resolve(target: Settings | str) -> tuple[Settings, RedisAddress]:
    if isinstance(target, str):
        return _default_settings(), parse_address(target)
    if target.redis_url is None:
        raise ConfigError(
            "No redis_url is set. Set UMBEL_REDIS_URL, or start an embedded Redis with `umbel up`."
        )
    return target, parse_address(target.redis_url.get_secret_value())


def _retries(settings: Settings, given: int | None) -> int:
    return settings.redis_retries if given is None else given


def _options(
    settings: Settings, address: RedisAddress, purpose: Purpose, client_name: str | None
) -> dict[str, Any]:
    options = {
        **address.client_options(),
        "socket_connect_timeout": settings.redis_connect_timeout_s,
        "socket_timeout": _read_timeout(settings, purpose),
        "health_check_interval": _HEALTH_CHECK_S,
        "client_name": client_name,
        "decode_responses": False,
        "protocol": _PROTOCOL,
    }
    if address.kind != "unix":
        options |= {"socket_keepalive": True, "socket_keepalive_options": _keepalive()}
    return options


def _read_timeout(settings: Settings, purpose: Purpose) -> float | None:
    if purpose == "pubsub":
        return None
    waiting = MAX_BLOCK_S if purpose == "blocking" else 0.0
    return settings.redis_timeout_s + waiting


def _keepalive() -> Mapping[int, int]:
    """Finds a peer that vanished without a word within 45 s, where the platform has the knobs."""
    wanted = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
    return {
        getattr(socket, name): seconds for name, seconds in wanted.items() if hasattr(socket, name)
    }
