"""One process of a stack: started, listened to, started again when it dies, stopped in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping

from umbel_worker.exits import how_it_ended

#: Prints a line of a member of the stack: who says it, and what.
Say = Callable[[str, str], None]
#: Is told of the death of a process: its id, and the cause.
Died = Callable[[int, str], object]

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
#: A process that lived this long has recovered from whatever ended its predecessors.
_HEALTHY_S = 60.0
#: Patience with the last lines of a process that has ended.
_LAST_LINES_S = 2.0


class Child:
    """A command of ours that runs as long as its stack does.

    It is the leader of a session of its own, so that Ctrl-C in a terminal reaches the stack alone,
    which then stops its members in order. Its standard input is a pipe that only this process can
    write to: it ends with this process, whatever becomes of it.

    Args:
        name: what its lines are marked with.
        words: arguments of the ``umbel`` command.
        variables: added to its environment.
        say: prints a line.
        died: is called when the process has ended though nobody asked it to.
    """

    def __init__(
        self,
        name: str,
        words: tuple[str, ...],
        variables: Mapping[str, str],
        say: Say,
        died: Died | None = None,
    ) -> None:
        self.name = name
        self._words, self._say, self._died = words, say, died
        self._environment = {**os.environ, **variables, "PYTHONUNBUFFERED": "1"}
        self._process: subprocess.Popen[str] | None = None
        self._listener: threading.Thread | None = None
        self._started = 0.0
        self._pause = _FIRST_PAUSE_S
        self._again_at: float | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the running process."""
        return self._process.pid if self._process and self.alive() else None

    @property
    def is_worker(self) -> bool:
        """Whether it is a worker, not a flusher."""
        return self._words[0] == "worker"

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts the process and begins to pass its lines on."""
        process = subprocess.Popen(
            [sys.executable, "-m", "umbel_cli", *self._words, "--stop-with-parent"],
            env=self._environment,
            errors="replace",
            start_new_session=True,
            stderr=subprocess.STDOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._process, self._started, self._again_at = process, time.monotonic(), None
        self._listener = threading.Thread(target=self._listen, args=(process,), daemon=True)
        self._listener.start()

    def tend(self) -> None:
        """Notices a death, and starts the process again when its pause is over."""
        if self._process is None or self.alive():
            return
        now = time.monotonic()
        if self._again_at is None:
            self._note_death(self._process, now)
        elif now >= self._again_at:
            self.start()

    def ask_to_stop(self) -> None:
        """Asks the process to finish what it is at; it may take its time."""
        if self.alive() and self._process is not None:
            self._process.terminate()

    def end(self) -> None:
        """Makes sure that the process and all of its children are gone."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
        if self._listener is not None:
            # A grandchild that was not ours to end may hold the pipe open.
            self._listener.join(_LAST_LINES_S)

    def _listen(self, process: subprocess.Popen[str]) -> None:
        if process.stdout is None:
            return
        with process.stdout as lines:
            for line in lines:
                if line.strip():
                    self._say(self.name, line.rstrip())

    def _note_death(self, process: subprocess.Popen[str], now: float) -> None:
        if now - self._started >= _HEALTHY_S:
            self._pause = _FIRST_PAUSE_S
        cause = how_it_ended(process.returncode)
        how = f"was {cause}" if process.returncode < 0 else cause
        self._say(self.name, f"process {process.pid} {how}; starting it again in {self._pause:g} s")
        if self._died is not None:
            self._died(process.pid, cause)
        if process.stdin is not None:
            process.stdin.close()
        self._again_at = now + self._pause
        self._pause = min(self._pause * 2, _LONGEST_PAUSE_S)
