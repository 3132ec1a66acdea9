"""Which Redis a command talks to: the given one, a running stack's, or one started for a moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis
from pydantic import SecretStr

from umbel_batching.identity import known_identity
from umbel_config.connect import address_of, check_server, connect, translate_errors
from umbel_config.embedded import EmbeddedRedis, find_store
from umbel_config.settings import Settings


def with_url(settings: Settings, url: str) -> Settings:
    """The settings with another ``redis_url``.

    Args:
        settings: as loaded.
        url: of a Redis.
    """
    return settings.model_copy(update={"redis_url": SecretStr(url)})


@contextmanager
def client_of(settings: Settings) -> Iterator[redis.Redis]:
    """A client of the Redis that is there; errors of the block are translated.

    Args:
        settings: with or without a ``redis_url``.

    Raises:
        StoreUnavailable: there is none, or it cannot be reached or used.
    """
    with (
        connect(find_store(settings), client_name="umbel-cli") as client,
        translate_errors(address_of(client)),
    ):
        check_server(client)
        known_identity(client, settings.namespace)
        yield client


@contextmanager
def opened(settings: Settings) -> Iterator[redis.Redis]:
    """Like ``client_of``, but starts the embedded Redis for the block where none runs.

    Args:
        settings: with or without a ``redis_url``.

    Raises:
        StoreUnavailable: Redis cannot be reached, started or used.
    """
    if settings.redis_url is not None:
        with client_of(settings) as client:
            yield client
        return
    with (
        EmbeddedRedis.start(settings.state_dir) as server,
        client_of(with_url(settings, server.url)) as client,
    ):
        yield client
