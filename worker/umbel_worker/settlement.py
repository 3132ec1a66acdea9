"""From the results of a batch to what settles it: records, and one message per waiting client."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

import msgspec

from umbel_batching.record import NO_REPLY, Failure, State, reply_of, settled_all
from umbel_batching.replies import push
from umbel_batching.values import Claimed, Settlement
from umbel_worker.compute import Computed

_NOBODY = NO_REPLY.encode()


def settlement(
    slot: str, claimed: Claimed, computed: Computed, compute_us: int, device: str
) -> Settlement:
    """Turns the results of a batch into records, and into one message per waiting client.

    Args:
        slot: the lane.
        claimed: the batch.
        computed: one result per job, in order, and what was learned about its size.
        compute_us: microseconds that computing took.
        device: the kind of device it ran on.
    """
    results = computed.results
    states = [State.FAILED if isinstance(out, Failure) else State.SUCCEEDED for out in results]
    bodies = [msgspec.msgpack.encode(out) if isinstance(out, Failure) else out for out in results]
    records = settled_all(claimed.records, states, bodies)
    messages = _messages(slot, claimed, states, bodies)
    succeeded = states.count(State.SUCCEEDED)
    return Settlement(
        uids=claimed.uids,
        records=records,
        succeeded=succeeded,
        messages=messages,
        compute_us=compute_us,
        device=device,
        ceiling=computed.ceiling,
    )


def _messages(
    slot: str, claimed: Claimed, states: Sequence[State], bodies: Sequence[bytes]
) -> dict[str, bytes]:
    clients = [reply_of(raw) for raw in claimed.records]
    messages = {}
    for client in set(clients) - {_NOBODY}:
        mine = [waits == client for waits in clients]
        uids = list(compress(claimed.uids, mine))
        ended, outputs = list(compress(states, mine)), list(compress(bodies, mine))
        messages[client.decode()] = push(slot, uids, ended, outputs)
    return messages
