"""What one worker process shares: connection, models, leases, its steward; made once."""

from __future__ import annotations

import os
import socket
import threading
from dataclasses import dataclass
from typing import Any

import torch

from umbel_batching.calls import Calls
from umbel_batching.retention import Retention
from umbel_batching.scripts import Runner
from umbel_config.connect import connect
from umbel_config.embedded import find_store
from umbel_config.settings import Settings, load_settings
from umbel_registry import ArtifactStore, Catalog
from umbel_registry.figures import Tallies
from umbel_registry.loads import Loads
from umbel_worker.board import Board
from umbel_worker.drain import Drainer
from umbel_worker.idle import Idle
from umbel_worker.leases import LeaseKeeper
from umbel_worker.mirror import Mirror
from umbel_worker.models import ModelCache
from umbel_worker.observer import Observer
from umbel_worker.pauses import spare_what_stays
from umbel_worker.shutdown import Flag, stopping
from umbel_worker.steward import Steward
from umbel_worker.tuners import Tuners
from umbel_worker.warmup import kind_of, pick_device

_making = threading.Lock()


@dataclass(frozen=True, slots=True)
class Process:
    """What one process of a worker consists of.

    Attributes:
        drainer: runs batches.
        steward: keeps it in step with the registry; not started yet.
        mirror: makes copies for shadows.
        leases: keeps the leases of running batches.
    """

    drainer: Drainer
    steward: Steward
    mirror: Mirror
    leases: LeaseKeeper


def drainer() -> Drainer:
    """The drainer of this process; its settings come from file and environment."""
    return _process().drainer


def begin() -> None:
    """Starts what runs beside the drains of this process: it tells and loads from now on."""
    _process()


def end() -> None:
    """Ends that, if it was begun; a drain that still runs, or begins late, goes on without it."""
    with _making:
        made = _made
    if made is not None:
        made.steward.stop()
        made.mirror.stop()


_made: Process | None = None


def _process() -> Process:
    global _made  # noqa: PLW0603  (one per process)
    with _making:  # two first tasks at once must not load two models
        if _made is None:
            settings = find_store(load_settings())
            _made = make_process(settings, stopping)
            spare_what_stays()
            _made.steward.start()
        return _made


def make_drainer(settings: Settings, stop: Flag) -> Drainer:
    """A drainer with everything it needs, but nobody beside it.

    Args:
        settings: with a ``redis_url``.
        stop: set by whoever wants drains to end early.
    """
    return make_process(settings, stop).drainer


def make_process(settings: Settings, stop: Flag) -> Process:
    """All that a process of a worker consists of.

    Args:
        settings: with a ``redis_url``.
        stop: set by whoever wants drains to end early.
    """
    torch.set_num_threads(threads_per_batch(settings))
    client = connect(settings, client_name="umbel-worker")
    runner, calls = Runner(client), Calls.of(settings)
    copies = Calls(settings.namespace, Retention.of(settings).of_copies)
    board, tallies, changed = Board(client, settings.namespace), Tallies(), threading.Event()
    name, leases = process_name(os.getpid()), LeaseKeeper(runner, calls, settings.lease_ms)
    loads = Loads(client, settings.namespace, name)
    models = ModelCache(
        Catalog(client, settings.namespace),
        ArtifactStore(settings.artifacts),
        settings,
        on_change=changed.set,
        loads=loads,
    )
    mirror = Mirror(runner, copies, board)
    device = kind_of(pick_device(settings.device))
    tuners = Tuners(runner, calls, board, f"{device}/{torch.get_num_threads()}")
    beside: dict[str, Any] = {"models": models, "loads": loads, "board": board}
    beside |= {"tallies": tallies, "tuners": tuners, "changed": changed}
    steward = Steward(client, settings, process=name, **_place(settings), **beside)
    made = Drainer(
        runner=runner,
        calls=calls,
        copies=copies,
        models=models,
        leases=leases,
        board=board,
        observer=Observer(runner, calls, board, mirror, tallies),
        worker=name,
        lease_ms=settings.lease_ms,
        budget_s=settings.drain_budget_ms / 1000,
        idle=_idle(settings),
        device=device,
        stopping=stop,
        tuners=tuners,
    )
    return Process(made, steward, mirror, leases)


def _idle(settings: Settings) -> Idle:
    client = connect(settings, purpose="blocking", client_name="umbel-idle")
    return Idle(client, settings.namespace, settings.idle_ms)


def _place(settings: Settings) -> dict[str, Any]:
    """The worker that this process belongs to, and its part of what that runs side by side."""
    if settings.pool == "prefork":
        return {"worker": process_name(os.getppid()), "slots": 1}
    return {"worker": process_name(os.getpid()), "slots": settings.concurrency}


def process_name(pid: int) -> str:
    """How a process is named in reports and in evidence: ``host:pid``.

    Args:
        pid: its number.
    """
    return f"{socket.gethostname()}:{pid}"


def threads_per_batch(settings: Settings) -> int:
    """Torch threads for one batch: as set, else all cores but one, shared by batches side by side.

    The one is for Redis, the flusher and whoever submits.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return settings.torch_threads or max(1, ((cores or 1) - 1) // settings.concurrency)
