"""A Redis that a scenario may kill and start again with its data, at the same address."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections import deque
from pathlib import Path

from redis.exceptions import RedisError

from faults.closing import Closing
from faults.waiting import until
from umbel_config.connect import connect
from umbel_config.guarded_process import GuardedProcess
from umbel_config.server_binary import find_server

_SAMPLE_S = 0.01
_KEPT_S = 5.0


class MortalRedis(Closing):
    """A Redis with an append-only file on a Unix socket, which ends with this process.

    The embedded Redis of the product has another address after each start, as befits a server
    that goes with its owner; here the clients have to find it again.
    """

    def __init__(self) -> None:
        # A short path of its own: that of a socket has at most 107 characters.
        self._folder = Path(tempfile.mkdtemp(prefix="umbel-faults-"))
        self.url = f"unix://{self._folder}/s"
        self._sizes: deque[tuple[float, int]] = deque(maxlen=int(_KEPT_S / _SAMPLE_S))
        self.start()

    def start(self, fsync: str = "everysec") -> None:
        """Starts it and waits until it has loaded its data.

        Args:
            fsync: ``appendfsync``: ``everysec`` or ``always``.
        """
        options = {"port": "0", "unixsocket": f"{self._folder}/s", "dir": str(self._folder)}
        options |= {"appendonly": "yes", "appendfsync": fsync, "save": ""}
        options |= {"maxmemory-policy": "noeviction", "auto-aof-rewrite-percentage": "0"}
        command = [str(find_server().path)]
        command += [word for name, value in options.items() for word in (f"--{name}", value)]
        self._process = GuardedProcess(command, log=self._folder / "log")
        until(self._answers, "the Redis server answers", 30)

    def kill(self) -> None:
        """Ends it at once; what it wrote to its file stays there, even what is not yet on disk."""
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.close(timeout_s=10)

    def stop(self) -> None:
        """Ends it as an operator would."""
        self._process.close(timeout_s=10)

    def close(self) -> None:
        """Ends it, and removes its data."""
        self._process.close(timeout_s=10)
        shutil.rmtree(self._folder, ignore_errors=True)

    def watch_file(self, stop: threading.Event) -> None:
        """Notes how long the append-only file is, a hundred times a second, until ``stop``."""
        while not stop.wait(_SAMPLE_S):
            self._sizes.append((time.monotonic(), self._file().stat().st_size))

    def cut_file(self, back_s: float) -> float:
        """Cuts the file back to its length of ``back_s`` before its last note, as a power cut may.

        Returns:
            The ``time.monotonic()`` from which on nothing is kept.
        """
        last, _ = self._sizes[-1]
        at, size = max(note for note in self._sizes if note[0] <= last - back_s)
        os.truncate(self._file(), size)
        return at

    def _file(self) -> Path:
        """The file that is added to: since Redis 7 the newest increment in a folder."""
        parts = sorted(
            self._folder.glob("appendonlydir/*.incr.aof"), key=lambda path: path.stat().st_mtime
        )
        return parts[-1] if parts else self._folder / "appendonly.aof"

    def _answers(self) -> bool:
        try:
            with connect(self.url, retries=0) as client:
                return bool(client.ping())
        except RedisError:
            return False
