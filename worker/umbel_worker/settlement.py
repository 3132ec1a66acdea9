"""From the results of a batch to what settles it: records, and one message per waiting client."""

from __future__ import annotations

from collections import defaultdict

import msgspec

from umbel_batching.record import NO_REPLY, Failure, State, reply_of, settled
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
    records = [
        settled(raw, state, body)
        for raw, state, body in zip(claimed.records, states, bodies, strict=True)
    ]
    waiting: defaultdict[bytes, list[int]] = defaultdict(list)
    for place, raw in enumerate(claimed.records):
        waiting[reply_of(raw)].append(place)
    waiting.pop(_NOBODY, None)
    messages = {
        client.decode(): push(
            slot,
            [claimed.uids[place] for place in places],
            [states[place] for place in places],
            [bodies[place] for place in places],
        )
        for client, places in waiting.items()
    }
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
