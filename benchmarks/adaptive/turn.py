"""A machine that becomes slower and fast again, and how long the choice takes to be right."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from adaptive.contestants import OBJECTIVE_MS
from adaptive.scene import Scene
from adaptive.search import Say

_PHASE_S: Final = 15.0
_LOOK_S: Final = 0.5
#: Within this part of the objective, and of the size it settles at, a choice is right.
_LATE, _NEAR = 1.1, 0.85
_BURNERS: Final = 3
_BURN = (
    "import os, sys\nwhile os.getppid() == int(sys.argv[1]):\n    sum(i * i for i in range(9999))"
)


@dataclass(frozen=True, slots=True)
class Look:
    """The lane at one moment.

    Attributes:
        at: seconds since the turn.
        size: mean size of the batches since the look before.
        cost_ms: what each of them took, with one slot that is never idle.
    """

    at: float
    size: float
    cost_ms: float


@dataclass(frozen=True, slots=True)
class Turn:
    """What was seen after the machine changed.

    Attributes:
        what: happened.
        right_s: seconds until the choice was right and stayed so; ``None``: it never was.
        looks: all of them.
    """

    what: str
    right_s: float | None
    looks: list[Look]


def turns(scene: Scene, say: Say) -> list[Turn]:
    """Burns the processor beside a saturated worker for a while.

    Args:
        scene: with an adaptive model.
        say: is told what goes on.
    """
    found = []
    with _flood(scene):
        _watched(scene, _PHASE_S / 2)
        with _burning():
            found.append(_turn(f"{_BURNERS} busy processes begin", _watched(scene, _PHASE_S)))
        found.append(_turn("they end", _watched(scene, _PHASE_S)))
    scene.drain()
    for each in found:
        say(f"{scene.name}: {each.what}: right after {each.right_s} s")
    return found


def _turn(what: str, looks: list[Look]) -> Turn:
    """Right is: batches within the objective, and about as large as they are in the end."""
    last = looks[-len(looks) // 4 :]
    settled = sorted(look.size for look in last)[len(last) // 2]
    wrong = [look.at for look in looks if not _right(look, settled)]
    right = max(wrong) if wrong else 0.0
    return Turn(what, None if right >= looks[-1].at else round(right, 1), looks)


def _right(look: Look, settled: float) -> bool:
    held = 2 * look.cost_ms <= _LATE * OBJECTIVE_MS
    return held and look.size >= _NEAR * settled


def _watched(scene: Scene, seconds: float) -> list[Look]:
    begin = before_at = time.monotonic()
    before, looks = scene.status(), list[Look]()
    while before_at < begin + seconds:
        time.sleep(_LOOK_S)
        now, status = time.monotonic(), scene.status()
        batches = max(1, status.batches - before.batches)
        jobs = status.succeeded - before.succeeded
        looks.append(Look(now - begin, jobs / batches, (now - before_at) * 1000 / batches))
        before, before_at = status, now
    return looks


@contextmanager
def _flood(scene: Scene) -> Iterator[None]:
    """Keeps the lane full while the block runs."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            scene.saturate(1.0)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def _burning() -> Iterator[None]:
    """Other programs use the processor while the block runs; they end with this process."""
    command = [sys.executable, "-c", _BURN, str(os.getpid())]
    processes = [subprocess.Popen(command) for _ in range(_BURNERS)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
