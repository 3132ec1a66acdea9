"""What chaos tests watch: every push, every terminal record, who holds a lease, and commands."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from faults.witness import Witness

from umbel_config.settings import Settings, environment


@pytest.fixture
def witness() -> Iterator[Callable[..., Witness]]:
    """Starts a witness; it ends with the test."""
    made: list[Witness] = []

    def start(settings: Settings) -> Witness:
        made.append(Witness(settings))
        return made[-1]

    yield start
    for one in made:
        one.close()


class Command:
    """An ``umbel`` command in a process of its own, that may be killed while it works.

    Args:
        settings: which Redis, namespace and folders.
        words: of the command.
        log: file for what it prints.
    """

    def __init__(self, settings: Settings, words: tuple[str, ...], log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "umbel_cli", *words],
                env={**os.environ, **environment(settings), "COLUMNS": "1000"},
                stderr=output,
                stdout=output,
            )

    @property
    def text(self) -> str:
        """What it has printed."""
        return self._log.read_text()

    @property
    def code(self) -> int | None:
        """How it ended; ``None`` while it works."""
        return self._process.poll()

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()
        self._process.wait()


@pytest.fixture
def umbel(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Starts an ``umbel`` command; it ends with the test."""
    with ExitStack() as stack:
        numbers = iter(range(100))

        def start(settings: Settings, *words: str) -> Command:
            command = Command(settings, words, tmp_path / f"command-{next(numbers)}.log")
            stack.callback(command.kill)
            return command

        yield start
