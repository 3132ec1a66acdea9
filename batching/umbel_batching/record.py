"""The record of one job: a fixed head, then meta, then the payload or the outcome.

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
reply      16     client that waits for the outcome; blank: nobody
meta       7      length of the meta part in bytes
=========  =====  ==============================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

import msgspec

from umbel_config.errors import InvalidInput

FIELDS = {
    "state": 1,
    "attempts": 2,
    "cap": 5,
    "batch": 32,
    "created": 13,
    "deadline": 13,
    "finished": 13,
    "reply": 16,
    "meta": 7,
}
HEAD = sum(FIELDS.values())
#: Width of the client id that a reply channel is named after.
REPLY_WIDTH = FIELDS["reply"]
NO_REPLY = " " * REPLY_WIDTH
#: Largest metadata of one job, in bytes of MessagePack.
MAX_META = 64 * 1024


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


_BY_LETTER = {state.letter: state for state in State}


def state_of(letter: str) -> State:
    """The state that ``letter`` stands for in a record or message."""
    return _BY_LETTER[letter]


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """Why a job failed: the class name of the error and its message."""

    kind: str
    message: str


class Record(msgspec.Struct, frozen=True):
    """A parsed record; times in milliseconds since 1970, 0 where there is none.

    ``body`` is the payload of a live job and the outcome of a terminal one; it is empty when only
    the head was read.
    """

    state: State
    attempts: int
    cap: int
    batch: str
    created_ms: int
    deadline_ms: int
    finished_ms: int
    reply: str
    meta: bytes
    body: memoryview

    @property
    def metadata(self) -> dict[str, Any]:
        """What the caller attached to the job at submit."""
        return msgspec.msgpack.decode(self.meta, type=dict[str, Any]) if self.meta else {}


def parse(raw: bytes) -> Record:
    """Reads a record, or its head and meta alone.

    Args:
        raw: at least the first ``HEAD`` bytes of a record.
    """
    text = raw[:HEAD].decode("ascii")
    values = {name: text[start:end] for name, (start, end) in _SPANS.items()}
    end_of_meta = HEAD + int(values["meta"])
    return Record(
        state=_BY_LETTER[values["state"]],
        attempts=int(values["attempts"]),
        cap=int(values["cap"]),
        batch=values["batch"].strip(),
        created_ms=int(values["created"]),
        deadline_ms=int(values["deadline"]),
        finished_ms=int(values["finished"]),
        reply=values["reply"].strip(),
        meta=raw[HEAD:end_of_meta],
        body=memoryview(raw)[end_of_meta:],
    )


_META_START, _META_END = _SPANS["meta"]
_REPLY_START, _REPLY_END = _SPANS["reply"]


def body_offset(raw: bytes) -> int:
    """Where the payload of a record begins; the quick way past head and meta."""
    return HEAD + int(raw[_META_START:_META_END])


def reply_of(raw: bytes) -> bytes:
    """The client that waits for the job of a record, blank padded; ``NO_REPLY`` for nobody."""
    return raw[_REPLY_START:_REPLY_END]


def tail(reply: str, meta: bytes) -> bytes:
    """The part of a new record that a client writes before the payload: reply, meta and its length.

    Args:
        reply: the client's id, or ``NO_REPLY``.
        meta: MessagePack of the job's metadata, or nothing.
    """
    return f"{reply}{len(meta):0{FIELDS['meta']}d}".encode() + meta


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


def settled(raw: bytes, state: State, body: bytes) -> bytes:
    """The terminal record that follows the claimed record ``raw``; head and meta are kept."""
    return state.letter.encode() + raw[1 : body_offset(raw)] + body


def lua_layout(names: Iterable[str] = FIELDS) -> str:
    """Lua constants for the head: ``BATCH_FROM, BATCH_TO`` (1-based, inclusive) and ``HEAD``."""
    lines = [f"local HEAD = {HEAD}"]
    for name in names:
        start, end = _SPANS[name]
        lines.append(f"local {name.upper()}_FROM, {name.upper()}_TO = {start + 1}, {end}")
    return "\n".join(lines) + "\n"
