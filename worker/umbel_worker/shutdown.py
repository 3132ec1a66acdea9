"""The one flag that tells every drain of this worker to end with the batch it is at."""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import tempfile
import threading
from pathlib import Path
from typing import Protocol

log = logging.getLogger("umbel.worker")
#: Names the file whose appearance tells pool processes that their parent shuts down.
STOP_FILE = "UMBEL_STOP_FILE"


class Flag(Protocol):
    """What a drain asks after each batch."""

    def is_set(self) -> bool:
        """Whether it must end."""


class Stopping:
    """Set when the worker shuts down, also in the processes of its pool.

    Those share no memory with their parent, may be started at any time, and must not depend on
    Redis to end: a file appears, whose name they have from their environment. There is none while
    the worker runs, so that one that is killed leaves none behind.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._file = os.environ.get(STOP_FILE, "")
        self._ours = ""

    def is_set(self) -> bool:
        """Whether this process, or the parent of its pool, shuts down."""
        return self._event.is_set() or (bool(self._file) and Path(self._file).exists())

    def share(self) -> None:
        """Has pool processes that are started from now on follow this process."""
        self._file = ""  # in the environment of a worker that was started anew in its place
        if self._ours:
            return
        name = f"umbel-stop-{os.getpid()}-{secrets.token_hex(8)}"
        self._ours = os.environ[STOP_FILE] = str(Path(tempfile.gettempdir()) / name)
        atexit.register(self.clear_away)

    def set(self) -> None:
        """Says that this process shuts down; not for signal handlers, as it may wait for a lock."""
        self._event.set()
        if not self._ours:
            return
        try:
            Path(self._ours).touch(mode=0o600)
        except OSError as error:
            log.warning("pool processes are not told to stop (%s); their budget ends them", error)

    def clear_away(self) -> None:
        """Removes the file, if there is one."""
        if self._ours:
            Path(self._ours).unlink(missing_ok=True)


#: Set when the worker shuts down.
stopping = Stopping()
