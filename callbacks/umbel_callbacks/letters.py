"""What a POST holds, read from the records of its jobs: the URL, the body, how it fared so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from umbel_batching import record
from umbel_batching.deliveries import Delivery, DeliveryState, delivery_of
from umbel_batching.keys import lane_keys
from umbel_batching.lanes import split_name
from umbel_batching.outbox import Entry, Post
from umbel_batching.record import HEAD, MAX_META, Record
from umbel_batching.scripts import AsyncRunner
from umbel_callbacks.body import Composer, Event, event_of
from umbel_callbacks.encodings import Encodings
from umbel_callbacks.retries import Answer

#: JSON takes at least a quarter of the bytes of an encoded output: of one that is larger nothing
#: more is read, as it is sent thin anyway.
_SHRINKS = 4
_ANNEX = MAX_META + 32_768
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
        delivery: how it fared so far.
    """

    post: Post
    url: str | None = None
    body: bytes = b""
    delivery: Delivery = _NOTHING

    @property
    def host(self) -> str:
        """The host of the receiver, without its port, as ``parse_host`` gives it."""
        name, _, port = self.post.receiver.rpartition(":")
        return (name if name and port.isdigit() else self.post.receiver).strip("[]")

    def unsigned(self) -> Answer:
        """What comes of a callback that no secret is there for: it is not sent."""
        return Answer(
            note=f"not sent: there is no secret to sign what goes to {self.host}; add one to "
            "callback_secrets"
        )


class Letters:
    """Reads what POSTs hold.

    Args:
        runner: whose connection is used.
        namespace: prefix of every key.
        composer: writes bodies.
        encodings: how models have their outputs written.
        max_bytes: largest body.
    """

    def __init__(
        self,
        runner: AsyncRunner,
        namespace: str,
        composer: Composer,
        encodings: Encodings,
        max_bytes: int,
    ) -> None:
        self._client: Any = runner.client
        self._namespace, self._composer, self._encodings = namespace, composer, encodings
        self._most = HEAD + _ANNEX + max_bytes * _SHRINKS
        self._lanes: dict[str, str] = {}

    async def read(self, posts: Sequence[Post]) -> list[Letter]:
        """The letters for ``posts``: records of single ones are read together."""
        single = [post for post in posts if not post.is_parcel]
        pieces = await self._pieces([post.entries[0] for post in single])
        letters = [
            self._letter(post, [piece] if piece else [])
            for post, piece in zip(single, pieces, strict=True)
        ]
        for post in posts:
            if post.is_parcel:
                found = await self._pieces(post.entries)
                letters.append(self._letter(post, [piece for piece in found if piece]))
        return letters

    def _letter(self, post: Post, pieces: list[_Piece]) -> Letter:
        if not pieces:
            return Letter(post)
        events = [piece.event for piece in pieces]
        body = self._composer.batch(events) if post.is_parcel else self._composer.single(events[0])
        oldest = min((piece.delivery for piece in pieces), key=lambda each: each.since)
        return Letter(post, pieces[0].url, body, oldest)

    async def _pieces(self, entries: Sequence[Entry]) -> list[_Piece | None]:
        if not entries:
            return []
        pipe = self._client.pipeline(transaction=False)
        for entry in entries:
            keys = lane_keys(self._namespace, entry.slot)
            pipe.getrange(keys.job + entry.uid, 0, self._most)
            pipe.get(keys.delivery + entry.uid)
        found = await pipe.execute()
        records = [_ended(entry, raw) for entry, raw in zip(entries, found[::2], strict=True)]
        batches = await self._batches(entries, records)
        pieces: list[_Piece | None] = []
        for entry, parsed, delivery in zip(entries, records, found[1::2], strict=True):
            pieces.append(await self._piece(entry, parsed, delivery, batches) if parsed else None)
        return pieces

    async def _piece(
        self, entry: Entry, parsed: Record, delivery: bytes | None, batches: dict[str, Any]
    ) -> _Piece | None:
        lane, fares = await self._lane(entry.slot), delivery_of(parsed, delivery)
        if fares is None or parsed.callback_url is None:
            return None
        model, version = split_name(lane)
        encoding = await self._encodings.of(model, version)
        batch = batches.get(parsed.batch, {})
        event = event_of(entry.job_id, lane, parsed, batch, encoding)
        return _Piece(event, parsed.callback_url, fares)

    async def _batches(
        self, entries: Sequence[Entry], records: Sequence[Record | None]
    ) -> dict[str, Any]:
        """The hashes of the batches that the jobs were in, by id."""
        keys = {
            parsed.batch: lane_keys(self._namespace, entry.slot).batch + parsed.batch
            for entry, parsed in zip(entries, records, strict=True)
            if parsed is not None and parsed.batch
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


def _ended(entry: Entry, raw: bytes) -> Record | None:
    """The record of the run that an entry speaks of; ``None`` if it is gone, or ran again since."""
    if not raw:
        return None
    parsed = record.parse(raw)
    return parsed if parsed.state.terminal and parsed.replays % 100 == entry.replays else None
