"""A server process that never outlives its owner, however the owner ends."""

from __future__ import annotations

import os
import signal
import subprocess
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Final

#: Becomes the server, after leaving behind a watcher that reads a pipe only the owner can write
#: to. When the owner is gone, by whatever signal, the kernel closes the pipe, the read ends and
#: the server is asked to stop. ``$$`` cannot have become another process by then: a process id is
#: not used again while a member of the group it leads, the watcher, is alive.
_GUARD: Final = """
exec 3<&0 </dev/null
( read -r _ <&3; kill -TERM $$ 2>/dev/null ) &
exec 3<&-
exec "$@"
"""


class GuardedProcess:
    """A running server with its watcher.

    Both live in a session of their own, so that Ctrl-C in a terminal reaches the owner first and
    the server stops last.

    Args:
        command: the program and its arguments.
        log: file that the program's output is added to.
        keep_open: file descriptors that server and watcher inherit, for as long as they live.
    """

    def __init__(self, command: Sequence[str], *, log: Path, keep_open: Sequence[int] = ()) -> None:
        read_end, self._write_end = os.pipe()
        try:
            with log.open("ab") as output:
                self._process = subprocess.Popen(
                    ["/bin/sh", "-c", _GUARD, "umbel-guard", *command],
                    pass_fds=tuple(keep_open),
                    start_new_session=True,
                    stdin=read_end,
                    stderr=output,
                    stdout=output,
                )
        except BaseException:
            os.close(self._write_end)
            raise
        finally:
            os.close(read_end)
        self._owner_pid = os.getpid()
        self._closed = False
        _live.add(self)

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether the server still runs."""
        return not self._closed and self._process.poll() is None

    def close(self, *, timeout_s: float) -> None:
        """Stops the server and waits for it; a second call does nothing.

        Args:
            timeout_s: patience before it is killed.
        """
        if self._closed or os.getpid() != self._owner_pid:
            return
        self._closed = True
        _live.discard(self)
        os.close(self._write_end)
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            # The whole group: a rewrite of the append-only file runs in a child of the server.
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def forget(self) -> None:
        """Lets go of the server in a forked child, which must not keep it alive."""
        self._closed = True
        os.close(self._write_end)
        # The child is not this process's parent: it cannot wait, and must not warn about it.
        self._process.returncode = 0


_live: weakref.WeakSet[GuardedProcess] = weakref.WeakSet()


def _forget_all() -> None:
    for process in list(_live):
        process.forget()
    _live.clear()


os.register_at_fork(after_in_child=_forget_all)
