"""The messages that push outcomes to waiting clients, one per batch and client.

A message begins with its kind: ``=`` carries the outcomes themselves, ``?`` only names jobs whose
records the client should read (the outcomes are large, or were made inside a script).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from umbel_batching.lanes import SLOT_LENGTH, UID_LENGTH
from umbel_batching.record import State, state_of

#: Bytes of outcomes above which a message only names the jobs.
MAX_PUSHED_BYTES = 2**20
_ENCODER = msgspec.msgpack.Encoder()


class _Columns(msgspec.Struct, array_like=True):
    slot: str
    uids: str
    letters: str
    bodies: list[bytes]


_DECODER = msgspec.msgpack.Decoder(_Columns)


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """How a job ended: its terminal state, and the encoded output or failure."""

    state: State
    body: bytes


def push(slot: str, uids: Sequence[str], states: Sequence[State], bodies: Sequence[bytes]) -> bytes:
    """The message that tells one client how some of its jobs ended.

    Args:
        slot: the lane of all of them.
        uids: the jobs.
        states: their terminal states.
        bodies: their encoded outputs or failures.
    """
    joined = "".join(uids)
    if sum(map(len, bodies)) > MAX_PUSHED_BYTES:
        return b"?" + (slot + joined).encode()
    letters = "".join([state.letter for state in states])
    return b"=" + _ENCODER.encode(_Columns(slot, joined, letters, list(bodies)))


def read(message: bytes) -> tuple[list[tuple[str, Outcome]], list[str]]:
    """Reads a message: the outcomes it carries by job id, and the ids whose records to read."""
    if message[:1] == b"=":
        columns = _DECODER.decode(memoryview(message)[1:])
        ids = _ids(columns.slot, columns.uids)
        outcomes = [
            (job_id, Outcome(state_of(letter), body))
            for job_id, letter, body in zip(ids, columns.letters, columns.bodies, strict=True)
        ]
        return outcomes, []
    text = message[1:].decode("ascii")
    return [], _ids(text[:SLOT_LENGTH], text[SLOT_LENGTH:])


def _ids(slot: str, uids: str) -> list[str]:
    return [f"{slot}-{uids[at : at + UID_LENGTH]}" for at in range(0, len(uids), UID_LENGTH)]
