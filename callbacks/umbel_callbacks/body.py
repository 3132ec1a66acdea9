"""The body of a callback: one event of how a job ended, or a batch of them, written as JSON.

A body depends on its jobs and the settings alone, so that every attempt sends the same bytes. A
thin event tells that a job ended, and where its result can be read, but nothing of the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import msgspec

from umbel_batching import wire
from umbel_batching.census import JobInfo, job_info
from umbel_batching.record import Failure, Record, State
from umbel_callbacks.plain_json import plain
from umbel_config.callback_settings import CallbackSettings
from umbel_config.errors import ConfigError, MalformedPayload
from umbel_registry.manifest import OutputEncoding

BATCH = "job.batch"
_PLACE = "{id}"
#: A body of JSON takes at least this part of the bytes that a full event has in Redis: one of
#: those that cannot fit is not written only to be thrown away.
_SHRINKS = 16
#: Seconds whose text is remembered: many jobs begin and end in the same one.
_SECONDS = 1024
_ERRORS = {
    State.EXPIRED: ("JobExpired", "The job's timeout passed before a worker could start it."),
    State.CANCELLED: ("JobCancelled", "The job was cancelled before it had a result."),
}


@dataclass(frozen=True, slots=True)
class Event:
    """The end of one job, as it is told to a receiver.

    Attributes:
        info: the story of the job, without its error, which ``body`` tells.
        body: its outcome as it is stored: an encoded output, a failure, or nothing.
        encoding: how arrays of the output are written.
    """

    info: JobInfo
    body: bytes | memoryview
    encoding: OutputEncoding = "list"

    @property
    def ended_ms(self) -> int:
        """When the job ended, in ms since 1970; the last that is known of it, at least."""
        return self.info.finished_at or self.info.started_at or self.info.created_at

    def full(self) -> dict[str, Any]:
        """The event with output or error, and metadata.

        Raises:
            MalformedPayload: the outcome cannot be read.
        """
        data = self._head() | self._outcome()
        if self.info.metadata:
            data["metadata"] = plain(self.info.metadata)
        return self._wrapped(data | {"timing": self._timing()})

    def thin(self, link: str = "") -> dict[str, Any]:
        """The event without anything of input, outcome or metadata.

        Args:
            link: where the result can be read, with ``{id}``; empty for none.
        """
        data = self._head() | {"timing": self._timing()}
        if link:
            data["link"] = link.replace(_PLACE, self.info.id)
        return self._wrapped(data)

    def _wrapped(self, data: dict[str, Any]) -> dict[str, Any]:
        when = _iso(self.ended_ms)
        return {"type": f"job.{self.info.state}", "timestamp": when, "data": data}

    def _head(self) -> dict[str, Any]:
        return {name: getattr(self.info, name) for name in ("id", "model", "version", "state")}

    def _outcome(self) -> dict[str, Any]:
        state = State(self.info.state)
        if state is State.SUCCEEDED:
            return {"output": plain(wire.decode(self.body), self.encoding)}
        if state is State.FAILED:
            failure = msgspec.msgpack.decode(self.body, type=Failure)
            return {"error": {"kind": failure.kind, "message": failure.message}}
        kind, message = _ERRORS[state]
        return {"error": {"kind": kind, "message": message}}

    def _timing(self) -> dict[str, Any]:
        info = self.info
        return {
            "created_at": _iso(info.created_at),
            "started_at": _iso(info.started_at) if info.started_at else None,
            "finished_at": _iso(info.finished_at) if info.finished_at else None,
            "wait_ms": info.wait_ms,
            "compute_ms": info.compute_ms,
            "batch_size": info.batch_size,
            "attempts": info.attempts,
        }


def event_of(
    job_id: str,
    lane: str,
    record: Record,
    batch: Mapping[bytes, bytes],
    encoding: OutputEncoding = "list",
) -> Event:
    """The event of a job that ended.

    Args:
        job_id: the job.
        lane: name of its lane.
        record: its terminal record.
        batch: the hash of its last batch; empty when it has none.
        encoding: how arrays of the output are written, see ``Encodings``.

    Raises:
        ValueError: the job has not ended.
    """
    if not record.state.terminal:
        raise ValueError(f"Job {job_id} is {record.state}: it has no end to tell of yet.")
    # A damaged failure must not keep the rest from being told, so the story is read without it.
    bare = msgspec.structs.replace(record, body=memoryview(b""))
    return Event(job_info(job_id, lane, bare, batch), record.body, encoding)


class Composer:
    """Writes the bodies of callbacks.

    Args:
        payload: ``full``, or ``thin`` for events that hold no outcome.
        max_bytes: largest body; what would be larger becomes thin.
        link: where a result can be read, with ``{id}``; empty for nowhere.

    Raises:
        ConfigError: the link is no address with a place for the id.
    """

    def __init__(
        self, payload: Literal["full", "thin"] = "full", max_bytes: int = 262_144, link: str = ""
    ) -> None:
        if link and not _is_template(link):
            raise ConfigError(
                "callback_link is no http or https address with {id} in it: write, for example, "
                "https://app.example.com/results/{id}."
            )
        self._full = payload == "full"
        self._max_bytes = max_bytes
        self._link = link

    @classmethod
    def of(cls, settings: CallbackSettings) -> Self:
        """The composer that the settings describe.

        Raises:
            ConfigError: ``callback_link`` is malformed.
        """
        return cls(settings.callback_payload, settings.callback_max_bytes, settings.callback_link)

    def single(self, event: Event) -> bytes:
        """The body for one event; a thin one is sent even if it is too large."""
        return self._written(event)

    def batch(self, events: Sequence[Event]) -> bytes:
        """The body for several events in one POST, in their order.

        While it is too large, the largest become thin. It can stay too large if all are thin: that
        is for the sender to prevent, who chooses how many there are.

        Args:
            events: at least one.
        """
        moment = _iso(max(event.ended_ms for event in events))
        parts = [self._written(event) for event in events]
        excess = len(_joined(parts, moment)) - self._max_bytes
        for place in sorted(range(len(parts)), key=lambda place: -len(parts[place])):
            if excess <= 0:
                break
            thin = self._thin(events[place])
            excess -= max(0, len(parts[place]) - len(thin))
            parts[place] = min(parts[place], thin, key=len)
        return _joined(parts, moment)

    def _written(self, event: Event) -> bytes:
        if not self._full or len(event.body) > self._max_bytes * _SHRINKS:
            return self._thin(event)
        try:
            body = msgspec.json.encode(event.full())
        except (MalformedPayload, msgspec.MsgspecError, RecursionError):
            # Nested too deep, or damaged: it will be so for ever, and must not hold up the others.
            return self._thin(event)
        return body if len(body) <= self._max_bytes else self._thin(event)

    def _thin(self, event: Event) -> bytes:
        return msgspec.json.encode(event.thin(self._link))


def _joined(parts: Sequence[bytes], moment: str) -> bytes:
    data = [msgspec.Raw(part) for part in parts]
    return msgspec.json.encode({"type": BATCH, "timestamp": moment, "data": data})


def _is_template(link: str) -> bool:
    try:
        parts = urlsplit(link)
    except ValueError:
        return False
    return _PLACE in link and parts.scheme in {"http", "https"} and bool(parts.hostname)


def _iso(milliseconds: int) -> str:
    """A moment as ISO 8601 in UTC, to the millisecond."""
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


@lru_cache(_SECONDS)
def _second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"
