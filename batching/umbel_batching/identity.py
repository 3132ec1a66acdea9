"""Which data a namespace holds: the layout of its keys, and an id that a data loss changes."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, cast

import redis
import redis.asyncio

from umbel_batching.keys import lane_keys, shared_keys
from umbel_config.errors import StoreUnsuitable

#: Raised by one whenever the keys or records change so that older code would misread them.
LAYOUT = 4
#: Layout 1 was not marked as such; its lanes lack this field.
_UNMARKED, _SINCE_2 = b"1 ", "single_flight"


@dataclass(frozen=True, slots=True)
class Identity:
    """The data of a namespace.

    Attributes:
        layout: how its keys and records are laid out.
        store: id given when the first of it was written; another one means that it was lost.
    """

    layout: int
    store: str


def identify(client: redis.Redis, namespace: str) -> Identity:
    """The identity of the data in ``namespace``; an empty namespace is given one.

    Args:
        client: from ``umbel_config.connect``.
        namespace: prefix of every key.

    Raises:
        StoreUnsuitable: the data is laid out for another version of umbel.
    """
    key = shared_keys(namespace).store
    raw = client.get(key)
    if raw is None:  # a write that changes nothing is refused too while memory is full
        _refuse_unmarked(client, namespace)
        client.set(key, _new(), nx=True)
        raw = client.get(key)
    return _read(raw, namespace)


def known_identity(client: redis.Redis, namespace: str) -> Identity | None:
    """The identity of the data in ``namespace``, only read; ``None`` where it has none yet.

    Args:
        client: any client of the Redis.
        namespace: prefix of every key.

    Raises:
        StoreUnsuitable: the data is laid out for another version of umbel.
    """
    raw = client.get(shared_keys(namespace).store)
    if raw is None:
        _refuse_unmarked(client, namespace)
        return None
    return _read(raw, namespace)


async def identify_async(client: redis.asyncio.Redis, namespace: str) -> Identity:
    """The asyncio twin of ``identify``."""
    key = shared_keys(namespace).store
    raw = await client.get(key)
    if raw is None:
        other: Any = client  # redis-py's types do not tell what is awaited
        slots = await other.hkeys(shared_keys(namespace).lanes)
        if slots and not await other.hexists(_lane(namespace, slots[0]), _SINCE_2):
            _read(_UNMARKED, namespace)
        await client.set(key, _new(), nx=True)
        raw = await client.get(key)
    return _read(raw, namespace)


def _refuse_unmarked(client: redis.Redis, namespace: str) -> None:
    """Refuses data that was laid out before layouts were marked."""
    slots = cast("list[bytes]", client.hkeys(shared_keys(namespace).lanes))
    if slots and not client.hexists(_lane(namespace, slots[0]), _SINCE_2):
        _read(_UNMARKED, namespace)


def _lane(namespace: str, slot: bytes) -> str:
    return lane_keys(namespace, slot.decode()).lane


def _new() -> str:
    return f"{LAYOUT} {secrets.token_hex(8)}"


def _read(raw: Any, namespace: str) -> Identity:
    layout, _, store = raw.decode().partition(" ") if raw else ("", "", "")
    if layout != str(LAYOUT):
        raise StoreUnsuitable(
            f"Namespace {namespace!r} holds data of layout {layout or 'unknown'}; this version of "
            f"umbel reads layout {LAYOUT}. Drain its lanes with the version that wrote it, then "
            "set another namespace: workers register the models there again."
        )
    return Identity(int(layout), store)
