"""How the callback of a job fares: its state, its attempts and their log."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from umbel_batching.record import Record

_HEAD = 31


class DeliveryState(StrEnum):
    """The state of a delivery, independent of the state of its job.

    ``waiting`` until the job has ended, then ``pending`` until ``delivered`` or ``dead``.
    """

    WAITING = "waiting"
    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"


_BY_LETTER = {
    b"p": DeliveryState.PENDING,
    b"d": DeliveryState.DELIVERED,
    b"x": DeliveryState.DEAD,
}


class Attempt(msgspec.Struct, frozen=True):
    """One line of the log of a delivery.

    Attributes:
        at: when it ended, in ms since 1970.
        status: the HTTP status that was answered; 0 for none.
        took_ms: milliseconds that it took.
        note: what happened, in words; ``replayed`` for a line that is no attempt.
    """

    at: int
    status: int
    took_ms: int
    note: str


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery as it is stored; times in ms since 1970.

    Attributes:
        state: where it stands.
        attempts: how often it was tried since ``since``.
        since: the end of the job, or its last replay.
        due: when it is tried next; 0 where it is not.
        log: the latest attempts, oldest first.
    """

    state: DeliveryState
    attempts: int
    since: int
    due: int
    log: list[Attempt]


class Callback(msgspec.Struct, frozen=True, kw_only=True):
    """The callback of a job, as ``info`` tells it.

    Attributes:
        url: where the outcome is posted to.
        state: ``waiting`` for the end of the job, ``pending``, ``delivered`` or ``dead``.
        attempts: how often it was tried.
        last_status: the HTTP status answered last; ``None`` where there was none.
        next_at: when it is tried next, in ms since 1970; ``None`` where it is not, or at once.
        log: the latest attempts, oldest first.
    """

    url: str
    state: str
    attempts: int
    last_status: int | None
    next_at: int | None
    log: list[Attempt]


def parse_delivery(raw: bytes) -> Delivery:
    """Reads a delivery as the scripts write it.

    Args:
        raw: its text.
    """
    lines = raw[_HEAD:].decode(errors="replace").split("\n")
    fields = [line.split("|", 3) for line in lines if line]
    return Delivery(
        state=_BY_LETTER[raw[:1]],
        attempts=int(raw[1:4]),
        since=int(raw[4:17]),
        due=int(raw[17:30]),
        log=[Attempt(int(at), int(status), int(took), note) for at, status, took, note in fields],
    )


def delivery_of(record: Record, raw: bytes | None) -> Delivery | None:
    """How the callback of a job fares.

    Args:
        record: of the job.
        raw: its delivery as it is stored; ``None`` where nothing was tried yet.

    Returns:
        ``None`` for a job that has no callback.
    """
    if record.callback_url is None:
        return None
    if raw:
        return parse_delivery(raw)
    state = DeliveryState.PENDING if record.state.terminal else DeliveryState.WAITING
    since = record.finished_ms
    return Delivery(state=state, attempts=0, since=since, due=since, log=[])


def callback_of(record: Record, raw: bytes | None) -> Callback | None:
    """The callback of a job, as ``info`` tells it.

    Args:
        record: of the job.
        raw: its delivery as it is stored.
    """
    delivery, url = delivery_of(record, raw), record.callback_url
    if delivery is None or url is None:
        return None
    tried = [attempt for attempt in delivery.log if attempt.note != "replayed"]
    return Callback(
        url=url,
        state=delivery.state.value,
        attempts=delivery.attempts,
        last_status=tried[-1].status or None if tried else None,
        next_at=delivery.due or None,
        log=delivery.log,
    )
