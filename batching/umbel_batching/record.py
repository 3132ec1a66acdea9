"""The record of one job: a fixed head, then callback, meta, history, then payload or outcome.

A record is one Redis string, so that a job costs one key, a claim reads whole batches with MGET,
and a poll for the state reads the head alone (GETRANGE) and never drags the payload along. The
head is text of fixed widths, readable in ``redis-cli``; the Lua scripts get its layout from here.

=========  =====  ==============================================================
field      width  meaning
=========  =====  ==============================================================
state      1      q, r, s, f, e, c: the first letter of the state
attempts   2      times the job was claimed
cap        5      most jobs its next batch may hold; 0: as the policy says
batch      32     id of its last batch, the fence; blank before the first claim
created    13     arrival, ms since 1970 by the server's clock
deadline   13     ms after which it must not be computed; 0: none
finished   13     ms at which it became terminal; 0: see the batch, or not yet
priority   1      h, n, l: the first letter of the class
length     3      code of the input's length, see ``length.py``; 0: it has none
reply      16     client that waits for the outcome; blank: nobody
history    5      length of the history in bytes
meta       7      length of callback and metadata together in bytes
callback   4      length of the callback in bytes; 0: nobody is called back
=========  =====  ==============================================================

The callback is a letter and the URL: ``1`` for a POST of its own, ``m`` where results that are due
together may share one. The history stands behind the metadata: one line of text for each thing
that befell the job beyond its usual way, ``what|ms|batch|worker|cause``. Most jobs have none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

import msgspec

from umbel_batching.length import NO_LENGTH
from umbel_config.errors import InvalidInput

FIELDS = {
    "state": 1,
    "attempts": 2,
    "cap": 5,
    "batch": 32,
    "created": 13,
    "deadline": 13,
    "finished": 13,
    "priority": 1,
    "length": 3,
    "reply": 16,
    "history": 5,
    "meta": 7,
    "callback": 4,
}
HEAD = sum(FIELDS.values())
#: Width of the client id that a reply channel is named after.
REPLY_WIDTH = FIELDS["reply"]
NO_REPLY = " " * REPLY_WIDTH
#: Largest metadata of one job, in bytes of MessagePack.
MAX_META = 64 * 1024
#: Letters that a callback begins with.
ALONE, SHARED = "1", "m"


def _offsets() -> dict[str, tuple[int, int]]:
    spans, start = {}, 0
    for name, width in FIELDS.items():
        spans[name] = (start, start + width)
        start += width
    return spans


_SPANS = _offsets()


class State(StrEnum):
    """The state of a job; the last four are terminal and never change."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether the state is final."""
        return self not in (State.QUEUED, State.RUNNING)

    @property
    def letter(self) -> str:
        """The state's letter in a record."""
        return self.value[0]


class Priority(StrEnum):
    """The class of a job: higher ones run before lower ones, but no class starves."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def letter(self) -> str:
        """The class's letter in a record."""
        return self.value[0]


_LETTERS = {state: state.letter.encode() for state in State}
_BY_LETTER = {state.letter: state for state in State}
_CLASSES = {priority.letter: priority for priority in Priority}


def state_of(letter: str) -> State:
    """The state that ``letter`` stands for in a record or message."""
    return _BY_LETTER[letter]


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """Why a job failed: the class name of the error and its message."""

    kind: str
    message: str


class Event(msgspec.Struct, frozen=True):
    """Something that befell a job beyond its usual way.

    Attributes:
        what: ``lost`` with its worker, or ``replayed`` from the dead letters.
        at: when, in ms since 1970.
        batch_id: the batch that it was in.
        worker: who ran that batch; empty for a replay.
        cause: what became of the worker, as far as is known.
    """

    what: str
    at: int
    batch_id: str
    worker: str
    cause: str


class Record(msgspec.Struct, frozen=True):
    """A parsed record; times in milliseconds since 1970, 0 where there is none.

    ``body`` is the payload of a live job and the outcome of a terminal one; it is empty when only
    the head was read. ``length`` is a code.
    """

    state: State
    attempts: int
    cap: int
    batch: str
    created_ms: int
    deadline_ms: int
    finished_ms: int
    priority: Priority
    length: int
    reply: str
    callback: str
    meta: bytes
    history: list[Event]
    body: memoryview

    @property
    def callback_url(self) -> str | None:
        """Where the outcome is posted to; ``None`` for nowhere."""
        return self.callback[1:] or None

    @property
    def replays(self) -> int:
        """How often the job was put back from the dead letters: each run has its own callback."""
        return sum(event.what == "replayed" for event in self.history)

    @property
    def metadata(self) -> dict[str, Any]:
        """What the caller attached to the job at submit."""
        return msgspec.msgpack.decode(self.meta, type=dict[str, Any]) if self.meta else {}


def parse(raw: bytes) -> Record:
    """Reads a record, or its head and meta alone.

    Args:
        raw: a record; its head, meta and history at least.
    """
    text = raw[:HEAD].decode("ascii")
    values = {name: text[start:end] for name, (start, end) in _SPANS.items()}
    end_of_callback = HEAD + int(values["callback"])
    end_of_meta = HEAD + int(values["meta"])
    end_of_history = end_of_meta + int(values["history"])
    return Record(
        state=_BY_LETTER[values["state"]],
        attempts=int(values["attempts"]),
        cap=int(values["cap"]),
        batch=values["batch"].strip(),
        created_ms=int(values["created"]),
        deadline_ms=int(values["deadline"]),
        finished_ms=int(values["finished"]),
        priority=_CLASSES[values["priority"]],
        length=int(values["length"]),
        reply=values["reply"].strip(),
        callback=raw[HEAD:end_of_callback].decode("ascii"),
        meta=raw[end_of_callback:end_of_meta],
        history=_events(raw[end_of_meta:end_of_history]),
        body=memoryview(raw)[end_of_history:],
    )


def _events(text: bytes) -> list[Event]:
    lines = text.decode(errors="replace").split("\n")
    fields = [line.split("|") for line in lines if line]
    return [Event(what, int(at), *rest) for what, at, *rest in fields]


_META_START, _META_END = _SPANS["meta"]
_HISTORY_START, _HISTORY_END = _SPANS["history"]
_REPLY_START, _REPLY_END = _SPANS["reply"]
_CREATED_START, _CREATED_END = _SPANS["created"]
_LENGTH_START, _LENGTH_END = _SPANS["length"]
_CALLED_START, _CALLED_END = (end - _SPANS["priority"][0] for end in _SPANS["callback"])
_SIZED_START, _SIZED_END = (end - _SPANS["priority"][0] for end in _SPANS["length"])
_NOT_CALLED = b"0" * FIELDS["callback"]
_TAIL = HEAD - _SPANS["priority"][0]
_AUTHORITY = re.compile(rb".[a-z]+://([^/?#]+)", re.IGNORECASE)


def body_offset(raw: bytes) -> int:
    """Where the payload of a record begins; the quick way past head, meta and history."""
    return HEAD + int(raw[_META_START:_META_END]) + int(raw[_HISTORY_START:_HISTORY_END])


def body_offsets(records: Sequence[bytes]) -> list[int]:
    """Where the payload of each record begins; those like the first are not looked at closely.

    Args:
        records: records, at least one.
    """
    like, offset = records[0][_HISTORY_START:_META_END], body_offset(records[0])
    return [
        offset if raw[_HISTORY_START:_META_END] == like else body_offset(raw) for raw in records
    ]


def reply_of(raw: bytes) -> bytes:
    """The client that waits for the job of a record, blank padded; ``NO_REPLY`` for nobody."""
    return raw[_REPLY_START:_REPLY_END]


def created_of(raw: bytes) -> int:
    """When the job of a record arrived, in ms since 1970 by the server's clock."""
    return int(raw[_CREATED_START:_CREATED_END])


def length_of(raw: bytes) -> int:
    """The code of the length of a record's input; 0 for one that has none."""
    return int(raw[_LENGTH_START:_LENGTH_END])


def tail(
    reply: str,
    meta: bytes,
    priority: Priority = Priority.NORMAL,
    callback: bytes = b"",
    length: int = NO_LENGTH,
) -> bytes:
    """The part of a new record that a client writes before the payload, from the priority on.

    Args:
        reply: the client's id, or ``NO_REPLY``.
        meta: MessagePack of the job's metadata, or nothing.
        priority: the job's class.
        callback: from ``encode_callback``, or nothing.
        length: code of the input's length.
    """
    no_history = "0" * FIELDS["history"]
    annex = callback + meta
    lengths = f"{len(annex):0{FIELDS['meta']}d}{len(callback):0{FIELDS['callback']}d}"
    first = f"{priority.letter}{length:0{FIELDS['length']}d}"
    return f"{first}{reply}{no_history}{lengths}".encode() + annex


def with_length(new: bytes, length: int) -> bytes:
    """What ``tail`` returned, for an input of another length.

    Args:
        new: from ``tail``.
        length: code of that length.
    """
    return b"%b%03d%b" % (new[:_SIZED_START], length, new[_SIZED_END:])


def encode_callback(url: str, *, shared: bool = False) -> bytes:
    """The callback part of a record.

    Args:
        url: where the outcome is posted to, in ASCII and checked, at most 2,048 characters.
        shared: whether outcomes that are due together may come in one POST.
    """
    return ((SHARED if shared else ALONE) + url).encode("ascii")


def encode_meta(metadata: Mapping[str, Any] | None) -> bytes:
    """Encodes the metadata of a job.

    Raises:
        InvalidInput: it is no mapping of plain values, or is too large.
    """
    if metadata is None or (isinstance(metadata, dict) and not metadata):
        return b""
    try:
        meta = msgspec.msgpack.encode(metadata)
        msgspec.msgpack.decode(meta, type=dict[str, Any])
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise InvalidInput(
            f"metadata must be a dict of plain values with text keys: {error}"
        ) from None
    if len(meta) > MAX_META:
        raise InvalidInput(f"metadata takes {len(meta)} bytes; at most {MAX_META} are allowed.")
    return meta


def has_callback(new: bytes) -> bool:
    """Whether a job has a callback, told by the part of its record that a client writes."""
    return new[_CALLED_START:_CALLED_END] != _NOT_CALLED


def receiver_of(new: bytes) -> bytes:
    """The receiver of a job's callback, as the scripts count them; empty without a callback.

    Args:
        new: the part of its record that a client writes.
    """
    end = _TAIL + int(new[_CALLED_START:_CALLED_END])
    found = _AUTHORITY.match(new, _TAIL, end)
    return found[1] if found else b""


def settled(raw: bytes, state: State, body: bytes) -> bytes:
    """The terminal record that follows the claimed record ``raw``; all but the body is kept."""
    return _LETTERS[state] + raw[1 : body_offset(raw)] + body


def settled_all(
    records: Sequence[bytes], states: Sequence[State], bodies: Sequence[bytes]
) -> list[bytes]:
    """The terminal records that follow claimed ones; all but their bodies is kept.

    Args:
        records: as they were claimed, at least one.
        states: the terminal state of each.
        bodies: the outcome of each.
    """
    places = body_offsets(records)
    return [
        _LETTERS[state] + raw[1:at] + body
        for raw, state, at, body in zip(records, states, places, bodies, strict=True)
    ]


def lua_layout(names: Iterable[str] = FIELDS) -> str:
    """Lua constants for the head: ``BATCH_FROM, BATCH_TO`` (1-based, inclusive) and ``HEAD``."""
    lines = [f"local HEAD = {HEAD}"]
    for name in names:
        start, end = _SPANS[name]
        lines.append(f"local {name.upper()}_FROM, {name.upper()}_TO = {start + 1}, {end}")
    return "\n".join(lines) + "\n"
