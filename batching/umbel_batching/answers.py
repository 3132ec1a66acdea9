"""Reading what the scripts reply."""

from __future__ import annotations

from typing import Any

from umbel_batching.lanes import Lane
from umbel_batching.record import State, state_of
from umbel_batching.values import Accepted, Claimed, Due, Fate, Flush, Known, Reaped, Replayed
from umbel_config.errors import ConfigError, LaneFull, ReceiverFull

#: Seconds to suggest to a refused caller while no rate has been measured, and at most.
_FIRST_RETRY_S, _LONGEST_RETRY_S = 1.0, 60.0
_RECEIVER_FULL = -3


def accepted(lane: Lane, reply: Any) -> Accepted:
    """What became of a submit.

    Raises:
        LaneFull: the lane has no room for the jobs; none was queued.
        ReceiverFull: too many callbacks wait for a receiver; none was queued.
        ConfigError: two lanes share a slot.
    """
    code = int(reply[0])
    if code in (1, -2):
        return Accepted(int(reply[1]), {int(place): _known(rest) for place, *rest in reply[2]})
    if code == _RECEIVER_FULL:
        raise _receiver_full(int(reply[1]), reply[2].decode(), int(reply[3]) / 1000)
    if code < 0:
        raise ConfigError(
            f"Lanes {lane.name!r} and {reply[1].decode()!r} share the slot {lane.slot}; "
            "give one of the two versions another name."
        )
    raise _full(lane, int(reply[1]), float(reply[2]))


def _known(parts: list[Any]) -> Known:
    slot, uid, same = parts
    return Known(slot.decode(), uid.decode(), same == 1)


def _full(lane: Lane, depth: int, rate: float) -> LaneFull:
    """The refusal; a tenth of the lane is expected to be free when the caller comes back."""
    wait_s = depth / rate / 10 if rate > 0 else _FIRST_RETRY_S
    return LaneFull(
        f"Lane {lane.name} has no room for what was sent: {depth} jobs wait there already. Send "
        "less at once, try again later, raise max_queue or max_queue_bytes, or add workers.",
        retry_after=min(max(wait_s, 0.05), _LONGEST_RETRY_S),
    )


def _receiver_full(waiting: int, receiver: str, closed_s: float) -> ReceiverFull:
    return ReceiverFull(
        f"{waiting} callbacks wait for {receiver} already, and max_callbacks or "
        "max_callback_bytes allows no more. Try again later, submit without a callback_url, or see "
        "`umbel callbacks receivers`.",
        retry_after=min(max(closed_s, _FIRST_RETRY_S), _LONGEST_RETRY_S),
    )


def claimed(batch: str, reply: Any) -> Claimed:
    """The batch that was claimed under the id ``batch``."""
    reason, oldest, now, left, uids, records, ceiling, stays = reply
    return Claimed(
        batch=batch,
        reason=reason.decode(),
        oldest_ms=int(oldest),
        started_ms=int(now),
        left=int(left),
        uids=[uid.decode() for uid in uids],
        records=records,
        ceiling=int(ceiling),
        stays=stays == 1,
    )


def due(reply: Any) -> Due:
    """The lanes that need a flusher."""
    return Due(int(reply[0]), int(reply[1]), [slot.decode() for slot in reply[2]])


def flush(reply: Any) -> Flush:
    """The decision about one lane."""
    sent, expired, lane, queue, overdue, in_the_way = reply
    return Flush(
        int(sent),
        int(expired),
        lane.decode(),
        queue.decode(),
        int(overdue),
        tuple(slot.decode() for slot in in_the_way),
    )


def reaped(reply: Any) -> Reaped:
    """What a reaper did."""
    return Reaped(*(int(part) for part in reply))


def replayed(reply: Any) -> Replayed:
    """Whether a dead letter waits again."""
    return Replayed(done=not reply, why=reply.decode())


def cancelled(reply: Any) -> tuple[bool, State | None]:
    """Whether a cancel won, and the state that it found."""
    return reply[0] == 1, state(reply[1])


def state(letter: bytes) -> State | None:
    """The state that a letter stands for; ``None`` for no letter."""
    return state_of(letter.decode()) if letter else None


def states(reply: Any) -> list[State | None]:
    """The states of several jobs."""
    return [state(letter) for letter in reply]


def fates(reply: Any) -> list[Fate | None]:
    """What tombstones tell of several jobs."""
    return [Fate(state_of(told[:1].decode()), int(told[1:])) if told else None for told in reply]
