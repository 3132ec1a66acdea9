"""What the client knows of the registry: ways by name and version, fresh within a second."""

from __future__ import annotations

import time
from typing import Any

import redis
import redis.asyncio

from umbel._way import Turns, Way
from umbel_batching.keys import shared_keys
from umbel_config.errors import ModelNotFound, VersionNotFound
from umbel_registry.keys import model_key, models_key, revision_key, traffic_key
from umbel_registry.resolve import Resolved, resolve, text

#: Seconds for which a way is used without asking whether the registry has moved.
FRESH_S = 1.0
#: Counter of the registry and identity of the store: after a data loss the counter starts anew.
Revision = tuple[Any, ...]


class WayCache:
    """Ways already resolved, thrown away when the registry's revision moves."""

    def __init__(self) -> None:
        self._ways: dict[tuple[str, str | None], Way] = {}
        self._turns: dict[str, Turns] = {}
        self._revision: Revision = ()
        self._checked = float("-inf")

    def get(self, model: str, version: str | None) -> Way | None:
        """The way, if it is known and was checked within ``FRESH_S``.

        Raises:
            ModelNotFound: the model is no text.
            VersionNotFound: the version is no text.
        """
        if not isinstance(model, str):
            raise ModelNotFound(f"A model is named by text, not by {model!r:.100}.")
        if not isinstance(version, str | None):
            raise VersionNotFound(f"Versions are text: give {str(version)!r:.100}, in quotes.")
        if time.monotonic() - self._checked > FRESH_S:
            return None
        return self._ways.get((model, version))

    def clear(self) -> None:
        """Forgets everything, as the store has lost its data."""
        self._ways.clear()
        self._checked = float("-inf")

    def moved(self, revision: Revision) -> None:
        """Notes the registry's revision; a new one empties the cache."""
        if revision != self._revision:
            self._ways.clear()
            self._revision = revision
        self._checked = time.monotonic()

    def known(self, model: str, version: str | None) -> Way | None:
        """The way, if it is known at the revision noted last."""
        return self._ways.get((model, version))

    def put(self, model: str, version: str | None, resolved: Resolved, revision: Revision) -> Way:
        """Remembers a way, unless the registry has moved since ``revision`` was read."""
        way = Way.of(resolved, self._turns.setdefault(model, Turns()))
        if revision == self._revision:
            self._ways[model, version] = way
        return way


def find(
    client: redis.Redis, namespace: str, cache: WayCache, model: str, version: str | None
) -> Way:
    """The way that a name and version mean now.

    Args:
        client: a Redis client.
        namespace: prefix of every key.
        cache: of this client.
        model: name of the model.
        version: a version or alias; ``None`` is the model's route.

    Raises:
        ModelNotFound: no model of that name is registered.
        VersionNotFound: the model has no such version, or as ``VersionRetired`` it is withdrawn.
    """
    revision = tuple(_asked(client, namespace).execute())
    cache.moved(revision)
    way = cache.known(model, version)
    if way is not None:
        return way
    traffic, raw = _about(client, namespace, model).execute()
    names = [] if raw else [text(name) for name in client.hkeys(models_key(namespace))]
    return cache.put(model, version, resolve(model, version, raw, traffic, names), revision)


def _asked(client: Any, namespace: str) -> Any:
    """One round trip for the two; not MGET, since on a cluster they lie on two nodes."""
    pipe = client.pipeline(transaction=False)
    pipe.get(revision_key(namespace))
    pipe.get(shared_keys(namespace).store)
    return pipe


def _about(client: Any, namespace: str, model: str) -> Any:
    """The traffic of a model and its versions, in one round trip.

    Read after the revision: a change in between leaves newer ways under an older revision, which
    are read once more. Versions are read last, so that those which a route names are among them.
    """
    pipe = client.pipeline(transaction=False)
    pipe.hgetall(traffic_key(namespace, model))
    pipe.hgetall(model_key(namespace, model))
    return pipe


async def find_async(
    client: redis.asyncio.Redis,
    namespace: str,
    cache: WayCache,
    model: str,
    version: str | None,
) -> Way:
    """The asyncio twin of ``find``."""
    revision = tuple(await _asked(client, namespace).execute())
    cache.moved(revision)
    way = cache.known(model, version)
    if way is not None:
        return way
    traffic, raw = await _about(client, namespace, model).execute()
    names = [] if raw else [text(name) for name in await client.hkeys(models_key(namespace))]
    return cache.put(model, version, resolve(model, version, raw, traffic, names), revision)
