"""Exclusive file locks that the kernel releases when their holder dies."""

from __future__ import annotations

import fcntl
import os
import time
import weakref
from pathlib import Path
from typing import Final, Self

_POLL_S: Final = 0.05


class FileLock:
    """One held lock; ``take`` makes it.

    The lock belongs to the open file. A process started with ``fd`` among its ``pass_fds`` holds it
    too, and it is free once all of them have closed the file or died.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        _held.add(self)

    @classmethod
    def take(cls, path: Path, *, timeout_s: float = 0.0) -> Self | None:
        """Takes the lock, or returns ``None`` when another holds it until the end of the patience.

        Args:
            path: the lock file; made if it is missing, never removed.
            timeout_s: patience in seconds.
        """
        deadline = time.monotonic() + timeout_s
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        while not _try(fd, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                os.close(fd)
                return None
            time.sleep(_POLL_S)
        return cls(fd)

    @property
    def held(self) -> bool:
        """Whether we still hold it: not after ``release``, nor in a forked child."""
        return self.fd >= 0

    def release(self) -> None:
        """Closes our end; a second call does nothing."""
        _held.discard(self)
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock exclusively."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _try(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def _try(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


_held: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _release_all() -> None:
    """A forked child must not hold on to its parent's locks."""
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_release_all)
