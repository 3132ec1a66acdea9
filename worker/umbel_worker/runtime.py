"""What one worker process shares: connection, models, leases; made once, on first use."""

from __future__ import annotations

import os
import socket
import threading
from functools import cache

import torch

from umbel_batching.calls import Calls
from umbel_batching.scripts import Runner
from umbel_config.connect import connect
from umbel_config.embedded import find_store
from umbel_config.settings import Settings, load_settings
from umbel_registry import ArtifactStore, Catalog
from umbel_worker.drain import Drainer
from umbel_worker.leases import LeaseKeeper
from umbel_worker.models import ModelCache, kind_of, pick_device
from umbel_worker.shutdown import Flag, stopping

_making = threading.Lock()


def drainer() -> Drainer:
    """The drainer of this process; its settings come from file and environment."""
    with _making:  # two first tasks at once must not load two models
        return _drainer()


@cache
def _drainer() -> Drainer:
    return make_drainer(find_store(load_settings()), stopping)


def make_drainer(settings: Settings, stop: Flag) -> Drainer:
    """A drainer with everything it needs.

    Args:
        settings: with a ``redis_url``.
        stop: set by whoever wants drains to end early.
    """
    torch.set_num_threads(threads_per_batch(settings))
    client = connect(settings, client_name="umbel-worker")
    runner, calls = Runner(client), Calls.of(settings)
    models = ModelCache(
        Catalog(client, settings.namespace), ArtifactStore(settings.artifacts), settings
    )
    return Drainer(
        runner=runner,
        calls=calls,
        models=models,
        leases=LeaseKeeper(runner, calls, settings.lease_ms),
        worker=f"{socket.gethostname()}:{os.getpid()}",
        lease_ms=settings.lease_ms,
        budget_s=settings.drain_budget_ms / 1000,
        device=kind_of(pick_device(settings.device)),
        stopping=stop,
    )


def threads_per_batch(settings: Settings) -> int:
    """Torch threads for one batch: as set, else all cores but one, shared by batches side by side.

    The one is for Redis, the flusher and whoever submits.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return settings.torch_threads or max(1, ((cores or 1) - 1) // settings.concurrency)
