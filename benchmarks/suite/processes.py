"""Processes that a run starts: frozen while others are measured, and ended with the run."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from faults.closing import Closing
from faults.processes import HERE

_STOP_S = 20.0


class Process(Closing):
    """A process with whatever it starts, in a group of its own.

    The group belongs to our session: should this program be killed, the kernel sees stopped
    processes without a parent, wakes them and hangs them up.

    Args:
        command: the program and its arguments.
        variables: its environment beside ours.
        log: file for what it says.
        talks: whether its standard output is a pipe to us, and not the log.
    """

    def __init__(
        self,
        command: Sequence[str],
        variables: Mapping[str, str],
        log: Path,
        *,
        talks: bool = False,
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                list(command),
                env={**os.environ, "PYTHONUNBUFFERED": "1", **variables},
                process_group=0,
                stdin=subprocess.PIPE,  # closed with us: that ends who is told to watch it
                stdout=subprocess.PIPE if talks else output,
                stderr=output,
            )
        self.pid = self.popen.pid

    def alive(self) -> bool:
        """Whether it runs, or is frozen."""
        return self.popen.poll() is None

    def said(self) -> str:
        """The end of its log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-1500:].strip()

    def freeze(self) -> None:
        """Stops all of it, so that it takes nothing from whoever is measured."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Ends all of it; by force if that takes too long."""
        self.ask_to_end()
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(_STOP_S)
        self._signal(signal.SIGKILL)
        self.popen.wait()
        if self.popen.stdout is not None:
            self.popen.stdout.close()

    def ask_to_end(self) -> None:
        """Lets it end by itself."""
        self.thaw()
        if self.popen.stdin is not None:
            with suppress(BrokenPipeError):
                self.popen.stdin.close()
        if self.alive():
            self.popen.send_signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # all of it has ended
            os.killpg(self.pid, number)


def paths(*, umbel: bool) -> dict[str, str]:
    """Where a process finds packages: this folder, and with ``umbel`` whatever we find ourselves.

    Args:
        umbel: whether it is one of umbel's own processes.
    """
    ours = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": os.pathsep.join([str(HERE), *([ours] if umbel and ours else [])])}


@contextmanager
def running(command: Sequence[str], variables: Mapping[str, str]) -> Iterator[None]:
    """Runs a process, silently, while the block runs.

    Args:
        command: the program and its arguments.
        variables: its environment beside ours.
    """
    with Process(command, variables, Path(os.devnull)):
        yield
