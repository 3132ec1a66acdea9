"""From a caller's value to a job ready to be submitted: checked, encoded, within the limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from umbel_batching import wire
from umbel_batching.lanes import Lane, new_uid
from umbel_batching.record import HEAD, NO_REPLY, encode_meta, tail
from umbel_batching.values import NewJob
from umbel_config.errors import InvalidInput, PayloadTooLarge
from umbel_registry.manifest import Manifest
from umbel_registry.signature import Signature

_LONGEST_TIMEOUT_S = 30 * 24 * 3600
#: Bytes of a record that the server writes before the part that a client writes.
_HEAD = HEAD - len(tail(NO_REPLY, b""))


@dataclass(frozen=True, slots=True)
class Target:
    """Where jobs of one model version go: its lane, and the signature they must fit."""

    lane: Lane
    signature: Signature


def target_of(manifest: Manifest) -> Target:
    """The target that a registered version is."""
    lane = Lane(
        model=manifest.name,
        version=manifest.version,
        queue=manifest.queue,
        policy=manifest.policy,
    )
    return Target(lane, manifest.signature)


@dataclass(frozen=True, slots=True)
class Options:
    """What all jobs of one call share.

    Attributes:
        tail: ``record.tail`` of the jobs.
        timeout_ms: milliseconds from arrival after which they must not be computed; 0: none.
        max_bytes: largest encoded input.
    """

    tail: bytes
    timeout_ms: int
    max_bytes: int


def options(
    *, reply: str, timeout: float | None, metadata: Mapping[str, Any] | None, max_bytes: int
) -> Options:
    """Checks the options of a submit.

    Args:
        reply: id of the client that waits for the outcome.
        timeout: seconds, or ``None`` for no deadline.
        metadata: plain values kept with the job.
        max_bytes: largest encoded input, in bytes.

    Raises:
        InvalidInput: the timeout is no positive number, or the metadata no dict of plain values.
    """
    return Options(tail(reply, encode_meta(metadata)), _milliseconds(timeout), max_bytes)


def prepare(target: Target, value: Any, chosen: Options) -> NewJob:
    """Makes one job.

    Raises:
        InvalidInput: the value does not fit the signature.
        PayloadTooLarge: it is over the limit.
    """
    return _encode(target, target.signature.validate_input(value), chosen)


def prepare_many(target: Target, values: Iterable[Any], chosen: Options) -> list[NewJob]:
    """Makes many jobs; all values are checked before the first is encoded.

    Raises:
        InvalidInput: a value does not fit the signature; the sentence names its place.
        PayloadTooLarge: one is over the limit.
    """
    return [_encode(target, value, chosen) for value in target.signature.validate_rows(values)]


def _encode(target: Target, value: Any, chosen: Options) -> NewJob:
    payload = wire.encode(value)
    if len(payload) > chosen.max_bytes:
        raise PayloadTooLarge(
            f"The input takes {len(payload)} bytes encoded; max_payload_bytes allows "
            f"{chosen.max_bytes}. Send less, or raise the setting for clients and workers."
        )
    behind_head = chosen.tail + payload
    room = target.lane.policy.max_queue_bytes
    if _HEAD + len(behind_head) > room:
        raise PayloadTooLarge(
            f"The job takes {_HEAD + len(behind_head)} bytes; lane {target.lane.name} holds "
            f"max_queue_bytes = {room} in all. Send less, or push the model with a larger one."
        )
    return NewJob(new_uid(), behind_head, chosen.timeout_ms)


def _milliseconds(timeout: float | None) -> int:
    if timeout is None:
        return 0
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not number or not 0 < timeout <= _LONGEST_TIMEOUT_S:
        raise InvalidInput(
            f"timeout must be seconds between 0 and {_LONGEST_TIMEOUT_S}, or None; got {timeout!r}."
        )
    return max(1, round(timeout * 1000))
