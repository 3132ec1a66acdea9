"""From a caller's value to a job ready to be submitted: checked, encoded, within the limits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import Any

import msgspec

from umbel._intake import Group
from umbel._way import Target, Way
from umbel_batching import wire
from umbel_batching.lanes import keyed_uid, new_uid
from umbel_batching.length import code_of
from umbel_batching.record import HEAD, NO_REPLY, Priority, encode_meta, tail, with_length
from umbel_batching.values import NewJob
from umbel_config.errors import InvalidInput, PayloadTooLarge

_LONGEST_TIMEOUT_S = 30 * 24 * 3600
_LONGEST_KEY = 255
#: Bytes of a record that the server writes before the part that a client writes.
_HEAD = HEAD - len(tail(NO_REPLY, b""))


class Options(msgspec.Struct, frozen=True):
    """What all jobs of one call share.

    Attributes:
        tail: ``record.tail`` of the jobs.
        timeout_ms: milliseconds from arrival after which they must not be computed; 0: none.
        max_bytes: largest encoded input.
        version: the version as the caller named it; empty for none.
    """

    tail: bytes
    timeout_ms: int
    max_bytes: int
    version: str = ""


def options(
    *,
    reply: str,
    version: str | None,
    timeout: float | None,
    priority: Priority | str,
    metadata: Mapping[str, Any] | None,
    max_bytes: int,
    callback: bytes = b"",
) -> Options:
    """Checks the options of a submit.

    Args:
        reply: id of the client that waits for the outcome.
        version: as the caller named it; ``None`` for the one that is due.
        timeout: seconds, or ``None`` for no deadline.
        priority: ``high``, ``normal`` or ``low``.
        metadata: plain values kept with the job.
        max_bytes: largest encoded input, in bytes.
        callback: from ``CallbackChecks.part``.

    Raises:
        InvalidInput: the timeout is no positive number, the priority none of the three, or the
            metadata no dict of plain values.
    """
    meta, its_class = encode_meta(metadata), _priority(priority)
    head = tail(reply, meta, its_class, callback) if meta else _plain(reply, its_class, callback)
    return Options(head, _milliseconds(timeout), max_bytes, version or "")


@lru_cache(maxsize=256)
def _plain(reply: str, priority: Priority, callback: bytes) -> bytes:
    """The tail without metadata, which most jobs of a client have in common."""
    return tail(reply, b"", priority, callback)


def prepare(target: Target, value: Any, chosen: Options, key: str | None = None) -> NewJob:
    """Makes one job.

    Args:
        target: where it goes.
        value: its input.
        chosen: what else the caller chose.
        key: its idempotency key, or ``None`` for none.

    Raises:
        InvalidInput: the value does not fit the signature, or the key is none.
        PayloadTooLarge: it is over the limit.
    """
    _check_key(key)
    return _encode(target, target.signature.validate_input(value), chosen, key)


def prepare_many(
    way: Way,
    values: Iterable[Any],
    chosen: Options,
    keys: Sequence[str | None] | None = None,
    routing_keys: Sequence[str | None] | None = None,
) -> list[Group]:
    """Makes many jobs; all values are checked before the first is encoded.

    Args:
        way: where they go; all its targets take the same inputs.
        values: their inputs.
        chosen: what else the caller chose.
        keys: their idempotency keys, one for each; ``None`` among them for a job without.
        routing_keys: their routing keys, likewise.

    Returns:
        The jobs by the lane that they go to.

    Raises:
        InvalidInput: a value does not fit the signature; the sentence names its place. Or the keys
            are not as many, are none, or one stands at two inputs.
        PayloadTooLarge: one is over the limit.
    """
    rows = way.main.signature.validate_rows(values)
    for given, kind in ((keys, "idempotency"), (routing_keys, "routing")):
        if given is not None:
            _check_keys(given, len(rows), kind)
    groups = [
        Group(
            target,
            [_encode(target, rows[row], chosen, keys[row] if keys else None) for row in its],
            its,
        )
        for target, its in way.many(len(rows), routing_keys)
    ]
    if keys is not None:
        _refuse_clashes(groups)
    return groups


def check_routing_key(key: Any) -> None:
    """Refuses what is no routing key.

    Args:
        key: as the caller gave it; ``None`` is none.

    Raises:
        InvalidInput: it is no printable text of 1 to 255 characters.
    """
    _check_key(key, kind="routing")


def _priority(given: Priority | str) -> Priority:
    try:
        return Priority(given)
    except (TypeError, ValueError):
        names = ", ".join(Priority)
        raise InvalidInput(f"priority must be one of {names}; got {given!r:.100}.") from None


def _check_key(key: Any, row: int | None = None, kind: str = "idempotency") -> None:
    if key is None:
        return
    if isinstance(key, str) and 0 < len(key) <= _LONGEST_KEY and key.isprintable():
        return
    where = "" if row is None else f" of row {row}"
    raise InvalidInput(
        f"The {kind} key{where} must be printable text of 1 to {_LONGEST_KEY} characters."
    )


def _check_keys(keys: Sequence[str | None], count: int, kind: str) -> None:
    if not isinstance(keys, Sequence) or isinstance(keys, str | bytes) or len(keys) != count:
        got = len(keys) if isinstance(keys, Sequence) else type(keys).__name__
        raise InvalidInput(
            f"{kind}_keys must be a list with one key for each of the {count} rows; got {got}."
        )
    for row, key in enumerate(keys):
        _check_key(key, row, kind)


def _refuse_clashes(groups: Sequence[Group]) -> None:
    """Refuses a call that gives one key to two inputs, before anything of it is queued."""
    first: dict[str, tuple[int, str]] = {}
    pairs = (zip(group.rows, group.new, strict=True) for group in groups)
    places = sorted(chain.from_iterable(pairs), key=itemgetter(0))
    for row, job in places:
        before, fingerprint = first.setdefault(job.uid, (row, job.fingerprint))
        if job.fingerprint != fingerprint:
            raise InvalidInput(
                f"Rows {before} and {row} have the same idempotency key but not the same input."
            )


def _named(target: Target, payload: bytes, chosen: Options, key: str | None) -> tuple[str, str]:
    """Uid of a job, and the fingerprint that tells whether its key comes with the same input."""
    if key is None:
        return new_uid(), ""
    digest = hashlib.blake2b(chosen.version.encode() + b"\0", digest_size=16)
    digest.update(payload)
    return keyed_uid(target.lane.model, key), digest.hexdigest()


def _encode(target: Target, value: Any, chosen: Options, key: str | None) -> NewJob:
    payload = wire.encode(value)
    if len(payload) > chosen.max_bytes:
        raise PayloadTooLarge(
            f"The input takes {len(payload)} bytes encoded; max_payload_bytes allows "
            f"{chosen.max_bytes}. Send less, or raise the setting for clients and workers."
        )
    length = target.signature.length_of(value, len(payload))
    start = chosen.tail if length is None else with_length(chosen.tail, code_of(length))
    behind_head = start + payload
    room = target.lane.policy.max_queue_bytes
    if _HEAD + len(behind_head) > room:
        raise PayloadTooLarge(
            f"The job takes {_HEAD + len(behind_head)} bytes; lane {target.lane.name} holds "
            f"max_queue_bytes = {room} in all. Send less, or push the model with a larger one."
        )
    uid, fingerprint = _named(target, payload, chosen, key)
    return NewJob(uid, behind_head, chosen.timeout_ms, fingerprint)


def _milliseconds(timeout: float | None) -> int:
    if timeout is None:
        return 0
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not number or not 0 < timeout <= _LONGEST_TIMEOUT_S:
        raise InvalidInput(
            f"timeout must be seconds between 0 and {_LONGEST_TIMEOUT_S}, or None; got {timeout!r}."
        )
    return max(1, round(timeout * 1000))
