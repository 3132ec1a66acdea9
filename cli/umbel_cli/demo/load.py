"""The demo's load: several producer processes, each submitting one job per digit."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umbel import Client, JobInfo
from umbel_config.settings import Settings

_PATIENCE_S = 90.0
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Share:
    """What one producer did.

    Attributes:
        rows: which digit each job carried.
        logits: the results ``[n, 10]``, in the same order.
        stories: how each job went.
        started: when its first job was submitted, in seconds since 1970.
        finished: when its last result was in its hands.
    """

    rows: NDArray[np.signedinteger[Any]]
    logits: NDArray[np.float32]
    stories: list[JobInfo]
    started: float
    finished: float


_gate: Barrier


def _set_gate(gate: Barrier) -> None:
    global _gate  # noqa: PLW0603  (how a process pool hands a barrier to its processes)
    _gate = gate


def run_load(
    settings: Settings,
    model: str,
    pixels: NDArray[np.float32],
    *,
    rounds: int,
    producers: int,
    tick: Callable[[], None],
) -> list[Share]:
    """Sends every digit ``rounds`` times, one job each, from all producers at once.

    Args:
        settings: with a ``redis_url``.
        model: which model.
        pixels: digits ``[n, 64]``.
        rounds: how often each is sent.
        producers: how many processes send.
        tick: called ten times a second meanwhile.
    """
    rows = np.tile(np.arange(len(pixels)), rounds)
    context = multiprocessing.get_context("spawn")
    gate = context.Barrier(producers)
    with ProcessPoolExecutor(
        producers, mp_context=context, initializer=_set_gate, initargs=(gate,)
    ) as pool:
        shares = [
            pool.submit(produce, settings, model, pixels, part)
            for part in np.array_split(rows, producers)
        ]
        while not all(share.done() for share in shares):
            tick()
            time.sleep(_POLL_S)
        return [share.result() for share in shares]


def produce(
    settings: Settings,
    model: str,
    pixels: NDArray[np.float32],
    rows: NDArray[np.signedinteger[Any]],
) -> Share:
    """One producer: waits for the others, submits its jobs one by one, collects the results.

    Args:
        settings: with a ``redis_url``.
        model: which model.
        pixels: digits ``[n, 64]``.
        rows: which of them to send.
    """
    with Client(settings=settings) as client:
        client.submit(model, pixels[0]).result(_PATIENCE_S)  # connects, and warms the model up
        _gate.wait(_PATIENCE_S)
        started = time.time()
        jobs = [client.submit(model, pixels[row]) for row in rows]
        logits: list[Any] = [job.result(_PATIENCE_S) for job in jobs]
        finished = time.time()
        stories = [job.info() for job in jobs]
    return Share(rows, np.stack(logits), stories, started, finished)
