"""What a POST holds, read from the records of its jobs: the URL, the body, how it fared so far."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from umbel_batching import record
from umbel_batching.deliveries import Delivery, DeliveryState, delivery_of
from umbel_batching.keys import lane_keys
from umbel_batching.lanes import split_name
from umbel_batching.outbox import Entry, OutboxCalls, Post
from umbel_batching.record import HEAD, MAX_META, Record
from umbel_batching.scripts import AsyncRunner
from umbel_callbacks.body import Composer, Event, event_of
from umbel_callbacks.encodings import Encodings
from umbel_callbacks.retries import Answer

#: JSON takes at least a quarter of the bytes of an encoded output: of one that is larger nothing
#: more is read, as it is sent thin anyway.
_SHRINKS = 4
_ANNEX = MAX_META + 32_768
#: POSTs of many that are read and written at the same time: each may hold megabytes.
_PARCELS = 2
#: Bytes of each output that are read for a POST of many, at least.
_LEAST = 65_536
#: The name of a lane that the store has lost.
_UNKNOWN = "?@?"
_NOTHING = Delivery(state=DeliveryState.PENDING, attempts=0, since=0, due=0, log=[])


@dataclass(frozen=True, slots=True)
class Letter:
    """A POST, ready to be signed.

    Attributes:
        post: as it was leased.
        url: where it goes; ``None``: its jobs are forgotten, there is nothing to send.
        body: JSON.
        message_id: the ``webhook-id``: the same for every attempt.
        delivery: how it fared so far.
        damage: what makes a record of it unreadable; empty for nothing.
    """

    post: Post
    url: str | None = None
    body: bytes = b""
    message_id: str = ""
    delivery: Delivery = _NOTHING
    damage: str = ""

    @property
    def host(self) -> str:
        """The host of the receiver, without its port, as ``parse_host`` gives it."""
        name, _, port = self.post.receiver.rpartition(":")
        return (name if name and port.isdigit() else self.post.receiver).strip("[]")

    def unsent(self) -> Answer:
        """What comes of a callback that is not sent: damaged, or without a secret to sign it."""
        if self.damage:
            return Answer(note=f"not sent: {self.damage}", hopeless=True)
        return Answer(
            note=f"not sent: there is no secret to sign what goes to {self.host}; add one to "
            "callback_secrets"
        )


@dataclass(frozen=True, slots=True)
class Draft:
    """A POST on its way to a letter.

    Attributes:
        post: as it was leased.
        pieces: what was read of its jobs; ``None`` where that is still to do.
    """

    post: Post
    pieces: Sequence[_Piece | str | None] | None = None


class Letters:
    """Reads what POSTs hold, and writes their bodies.

    Args:
        runner: runs scripts.
        calls: of the outbox.
        composer: writes bodies.
        encodings: how models have their outputs written.
        max_bytes: largest body.
    """

    def __init__(
        self,
        runner: AsyncRunner,
        calls: OutboxCalls,
        composer: Composer,
        encodings: Encodings,
        max_bytes: int,
    ) -> None:
        self._runner, self._calls, self._client = runner, calls, cast("Any", runner.client)
        self._namespace, self._composer, self._encodings = calls.namespace, composer, encodings
        self._most = max_bytes * _SHRINKS
        self._lanes: dict[str, str] = {}
        self._large = asyncio.Semaphore(_PARCELS)

    async def read(self, posts: Sequence[Post]) -> list[Draft]:
        """Drafts for ``posts``, in their order; the records of single ones are read together."""
        single = [post for post in posts if not post.is_parcel]
        found = await self._pieces([post.entries[0] for post in single], self._most)
        pieces = dict(zip((post.name for post in single), found, strict=True))
        return [Draft(post, None if post.is_parcel else [pieces[post.name]]) for post in posts]

    async def write(self, draft: Draft) -> Letter:
        """The letter for a draft; what it does not hold yet is read."""
        if draft.pieces is not None:
            return self._letter(draft.post, draft.pieces)
        async with self._large:
            post = draft.post
            most = max(_LEAST, self._most // max(1, len(post.entries)))
            return self._letter(post, await self._pieces(post.entries, most))

    def _letter(self, post: Post, found: Sequence[_Piece | str | None]) -> Letter:
        """The letter; one that is damaged must not hold up the others."""
        pieces = [piece for piece in found if isinstance(piece, _Piece)]
        damage = next((piece for piece in found if isinstance(piece, str)), "")
        if not pieces:
            return Letter(post, url="" if damage else None, damage=damage)
        try:
            return self._written(post, pieces)
        except Exception as error:  # noqa: BLE001  (whatever is in it)
            return Letter(post, pieces[0].url, delivery=pieces[0].delivery, damage=_damage(error))

    def _written(self, post: Post, pieces: list[_Piece]) -> Letter:
        events = [piece.event for piece in pieces]
        body = self._composer.batch(events) if post.is_parcel else self._composer.single(events[0])
        oldest = min((piece.delivery for piece in pieces), key=lambda each: each.since)
        created_ms = events[0].info.created_at
        name = post.message_id if post.is_parcel else post.entries[0].webhook_id(created_ms)
        return Letter(post, pieces[0].url, body, name, oldest)

    async def _pieces(self, entries: Sequence[Entry], most: int) -> list[_Piece | str | None]:
        """What is to be told of each entry; ``None``: nothing any more, text: what damages it."""
        if not entries:
            return []
        found = await self._runner.run(self._calls.read(entries, HEAD + _ANNEX + most))
        records = [_ended(entry, raw) for entry, (raw, _) in zip(entries, found, strict=True)]
        batches = await self._batches(entries, records)
        return [
            await self._piece(entry, parsed, delivery, batches)
            if isinstance(parsed, Record)
            else parsed
            for entry, parsed, (_, delivery) in zip(entries, records, found, strict=True)
        ]

    async def _piece(
        self, entry: Entry, parsed: Record, delivery: bytes | None, batches: dict[str, Any]
    ) -> _Piece | str | None:
        lane = await self._lane(entry.slot)
        encoding = await self._encodings.of(*split_name(lane))
        try:
            fares = delivery_of(parsed, delivery)
            if fares is None or parsed.callback_url is None:
                return None
            batch = batches.get(parsed.batch, {})
            event = event_of(entry.job_id, lane, parsed, batch, encoding)
        except Exception as error:  # noqa: BLE001  (whatever is in it)
            return _damage(error)
        return _Piece(event, parsed.callback_url, fares)

    async def _batches(
        self, entries: Sequence[Entry], records: Sequence[Record | str | None]
    ) -> dict[str, Any]:
        """The hashes of the batches that the jobs were in, by id."""
        keys = {
            parsed.batch: lane_keys(self._namespace, entry.slot).batch + parsed.batch
            for entry, parsed in zip(entries, records, strict=True)
            if isinstance(parsed, Record) and parsed.batch
        }
        pipe = self._client.pipeline(transaction=False)
        for key in keys.values():
            # Not its uids: there may be thousands.
            pipe.hmget(key, *_FACTS)
        found = await pipe.execute() if keys else []
        return {
            batch: {name: value for name, value in zip(_FACTS, values, strict=True) if value}
            for batch, values in zip(keys, found, strict=True)
        }

    async def _lane(self, slot: str) -> str:
        name = self._lanes.get(slot)
        if name is None:
            raw = await self._client.hget(lane_keys(self._namespace, slot).lane, "name")
            if raw is None:
                return _UNKNOWN
            name = self._lanes[slot] = raw.decode()
        return name


_FACTS = (b"started", b"settled", b"compute_us", b"size", b"reason", b"worker")


@dataclass(frozen=True, slots=True)
class _Piece:
    """One callback of a POST."""

    event: Event
    url: str
    delivery: Delivery


def _damage(error: Exception) -> str:
    return f"its record cannot be read ({type(error).__name__})"


def _ended(entry: Entry, raw: bytes) -> Record | str | None:
    """The record of the run that an entry speaks of; ``None`` if it is gone, or ran again since."""
    if not raw:
        return None
    try:
        parsed = record.parse(raw)
    except Exception as error:  # noqa: BLE001  (whatever is in it)
        return _damage(error)
    return parsed if parsed.state.terminal and parsed.replays % 100 == entry.replays else None
