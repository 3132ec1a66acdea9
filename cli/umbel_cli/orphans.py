"""A worker of the stack has died: its batches are taken back at once, in every lane."""

from __future__ import annotations

import logging
import threading
from socket import gethostname

from redis.exceptions import RedisError

from umbel_batching.calls import Calls
from umbel_batching.census import lane_names
from umbel_batching.scripts import Runner
from umbel_config.connect import connect
from umbel_config.errors import UmbelError
from umbel_config.settings import Settings

log = logging.getLogger("umbel.stack")


def worker_name(pid: int | None) -> str:
    """The name under which a worker process of this machine claims.

    Args:
        pid: its process id.
    """
    return f"{gethostname()}:{pid}"


def take_back(settings: Settings, pid: int, cause: str) -> threading.Thread:
    """Ends the leases of a dead process, in a thread: whoever tends the living cannot wait.

    Args:
        settings: with a ``redis_url``.
        pid: the process.
        cause: what became of it, kept as evidence.

    Returns:
        The thread; it ends within the time limits of a Redis command or two.
    """
    thread = threading.Thread(
        target=_orphan, args=(settings, worker_name(pid), cause), name="umbel-orphans", daemon=True
    )
    thread.start()
    return thread


def _orphan(settings: Settings, owner: str, cause: str) -> None:
    calls = Calls.of(settings)
    try:
        with connect(settings, client_name="umbel-orphans") as client:
            slots = lane_names(client, settings.namespace)
            orphans = [calls.orphan(slot, owner=owner, cause=cause) for slot in slots]
            if orphans:
                Runner(client).run_together(orphans)
    except (RedisError, UmbelError) as error:
        log.debug("%s: its batches wait for their leases (%s)", owner, type(error).__name__)
