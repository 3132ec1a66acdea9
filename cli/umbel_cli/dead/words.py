"""What is said where there is no dead letter, or where it cannot run again."""

from __future__ import annotations

import redis

from umbel_batching.calls import Calls
from umbel_batching.lanes import split_id
from umbel_batching.record import State
from umbel_batching.scripts import Runner
from umbel_config.errors import JobNotFound, UmbelError

_WHY = {
    "unknown": "no job of that id is known, or what was kept of it has expired",
    "not recorded": "its input is not kept any more (see max_dead_bytes and dead_ttl_s); "
    "submit it again from where it came from",
    "full": "its lane is full just now; try again when fewer jobs wait",
}


def no_dead_letter(client: redis.Redis, namespace: str, job_id: str) -> UmbelError:
    """The error to raise for an id that is no dead letter."""
    state = state_of(client, namespace, job_id)
    if state is None:
        return JobNotFound(f"No dead letter {job_id}: {_WHY['unknown']}.", job_id=job_id)
    return JobNotFound(
        f"Job {job_id} is no dead letter: {alive_text(state)}. See: umbel job {job_id}",
        job_id=job_id,
    )


def why_not(client: redis.Redis, namespace: str, job_id: str, why: str) -> str:
    """Why a job was not replayed, in words.

    Args:
        client: of the Redis.
        namespace: prefix of every key.
        job_id: the job.
        why: as ``Replayed`` has it.
    """
    if why in _WHY:
        return _WHY[why]
    state = state_of(client, namespace, job_id)
    return f"it is no dead letter: {alive_text(state) if state else _WHY['unknown']}"


def state_of(client: redis.Redis, namespace: str, job_id: str) -> State | None:
    """The state of a job now; ``None`` if it is not known."""
    slot, uid = split_id(job_id)
    (state,) = Runner(client).run(Calls(namespace).states(slot, [uid]))
    return state


def alive_text(state: State) -> str:
    """A job's state, in half a sentence."""
    if state is State.FAILED:
        return "it failed, and was dropped or gave way to newer ones"
    return f"it is {state.value}" if not state.terminal else f"it has {state.value}"
