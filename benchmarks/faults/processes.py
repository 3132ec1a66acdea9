"""Processes that a scenario starts, and may kill, freeze and replace; none outlives the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from faults.closing import Closing

#: The folder that this package is in: workers import the model from here.
HERE = Path(__file__).resolve().parent.parent
_STOP_S = 30.0


class Process(Closing):
    """A Python process in a session of its own.

    Its standard input is a pipe that only this process can write to: `umbel` commands that are
    told `--stop-with-parent` end with the run, however that ends.

    Args:
        words: arguments of the interpreter.
        variables: added to its environment.
        log: file that its output is added to.
        paths: folders that it finds packages in before all others.
    """

    def __init__(
        self,
        words: Sequence[str],
        variables: Mapping[str, str],
        log: Path,
        paths: Sequence[Path] = (),
    ) -> None:
        self.log = log
        found = [str(path) for path in (*paths, HERE)]
        found += [path for path in [os.environ.get("PYTHONPATH", "")] if path]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, *words],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(found), **variables},
                start_new_session=True,
                stderr=output,
                stdin=subprocess.PIPE,
                stdout=output,
            )
        self.pid = self._process.pid

    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def text(self) -> str:
        """What it printed and logged."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def children(self) -> list[int]:
        """The processes that it started itself."""
        listing = subprocess.run(
            ["ps", "-eo", "pid=,ppid="], capture_output=True, check=True, text=True
        ).stdout
        pairs = (line.split() for line in listing.splitlines())
        return [int(pid) for pid, parent in pairs if int(parent) == self.pid]

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal, if it lives."""
        if self.alive():
            self._process.send_signal(number)

    def hang_up(self) -> None:
        """Closes its standard input, which a producer takes as the end of its work."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def kill(self) -> None:
        """Ends it at once, as the kernel does when memory runs out."""
        self.signal(signal.SIGKILL)
        self._process.wait()
        self.hang_up()

    def close(self) -> bool:
        """Ends it as an operator would; by force, with all it started, if that takes too long.

        Returns:
            Whether it ended by itself.
        """
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        willing = False
        try:
            self._process.wait(_STOP_S)
            willing = True
        except subprocess.TimeoutExpired:
            pass
        finally:
            if not willing:
                os.killpg(self.pid, signal.SIGKILL)
                self._process.wait()
            self.hang_up()
        return willing
