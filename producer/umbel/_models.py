"""What the client knows of the registry: targets by name and version, fresh within a second."""

from __future__ import annotations

import time
from typing import Any

import redis
import redis.asyncio

from umbel._prepare import Target, target_of
from umbel_batching.keys import shared_keys
from umbel_config.errors import ModelNotFound, VersionNotFound
from umbel_registry.keys import model_key, models_key, revision_key
from umbel_registry.resolve import resolve, text

#: Seconds for which a target is used without asking whether the registry has moved.
FRESH_S = 1.0
#: Counter of the registry and identity of the store: after a data loss the counter starts anew.
Revision = tuple[Any, ...]


class TargetCache:
    """Targets already resolved, thrown away when the registry's revision moves."""

    def __init__(self) -> None:
        self._targets: dict[tuple[str, str | None], Target] = {}
        self._revision: Revision = ()
        self._checked = float("-inf")

    def get(self, model: str, version: str | None) -> Target | None:
        """The target, if it is known and was checked within ``FRESH_S``.

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
        return self._targets.get((model, version))

    def clear(self) -> None:
        """Forgets everything, as the store has lost its data."""
        self._targets.clear()
        self._checked = float("-inf")

    def moved(self, revision: Revision) -> None:
        """Notes the registry's revision; a new one empties the cache."""
        if revision != self._revision:
            self._targets.clear()
            self._revision = revision
        self._checked = time.monotonic()

    def known(self, model: str, version: str | None) -> Target | None:
        """The target, if it is known at the revision noted last."""
        return self._targets.get((model, version))

    def put(self, model: str, version: str | None, target: Target, revision: Revision) -> Target:
        """Remembers a target, unless the registry has moved since ``revision`` was read."""
        if revision == self._revision:
            self._targets[model, version] = target
        return target


def find(
    client: redis.Redis, namespace: str, cache: TargetCache, model: str, version: str | None
) -> Target:
    """The target that a name and version mean now.

    Args:
        client: a Redis client.
        namespace: prefix of every key.
        cache: of this client.
        model: name of the model.
        version: a version; ``None`` or ``"latest"`` is the highest.

    Raises:
        ModelNotFound: no model of that name is registered.
        VersionNotFound: the model has no such version.
    """
    revision = tuple(_asked(client, namespace).execute())
    cache.moved(revision)
    target = cache.known(model, version)
    if target is not None:
        return target
    raw = client.hgetall(model_key(namespace, model))
    names = [] if raw else [text(name) for name in client.hkeys(models_key(namespace))]
    target = target_of(resolve(model, version, raw, known=names))
    return cache.put(model, version, target, revision)


def _asked(client: Any, namespace: str) -> Any:
    """One round trip for the two; not MGET, since on a cluster they lie on two nodes."""
    pipe = client.pipeline(transaction=False)
    pipe.get(revision_key(namespace))
    pipe.get(shared_keys(namespace).store)
    return pipe


async def find_async(
    client: redis.asyncio.Redis,
    namespace: str,
    cache: TargetCache,
    model: str,
    version: str | None,
) -> Target:
    """The asyncio twin of ``find``."""
    revision = tuple(await _asked(client, namespace).execute())
    cache.moved(revision)
    target = cache.known(model, version)
    if target is not None:
        return target
    raw = await client.hgetall(model_key(namespace, model))
    names = [] if raw else [text(name) for name in await client.hkeys(models_key(namespace))]
    target = target_of(resolve(model, version, raw, known=names))
    return cache.put(model, version, target, revision)
