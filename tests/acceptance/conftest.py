"""Real processes: the `umbel` command as people run it, each in a folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from umbel_cli.store import opened
from umbel_config.settings import Settings, load_settings
from umbel_registry import ArtifactStore, Catalog, export_model, push


class Command:
    """Runs ``umbel`` in processes of its own, with this environment.

    Args:
        variables: the settings of this test.
        folder: working directory.
    """

    def __init__(self, variables: dict[str, str], folder: Path) -> None:
        self.variables, self.folder = variables, folder

    def run(self, *words: str, code: int = 0, stdin: str = "") -> tuple[str, str]:
        """What a command prints on standard output and on standard error."""
        done = subprocess.run(
            [sys.executable, "-m", "umbel_cli", *words],
            capture_output=True,
            check=False,
            cwd=self.folder,
            env={**os.environ, **self.variables},
            input=stdin,
            text=True,
            timeout=110,
        )
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout, done.stderr

    def json(self, *words: str) -> Any:
        """What a command prints with ``--json``."""
        return json.loads(self.run(*words, "--json")[0])

    def settings(self) -> Settings:
        """The settings that the command finds in its environment."""
        named = {name.removeprefix("UMBEL_").lower(): v for name, v in self.variables.items()}
        return load_settings(**named)

    @contextmanager
    def running(self, *words: str) -> Iterator[Service]:
        """A command that runs until it is stopped; killed at the end of the block."""
        service = Service([sys.executable, "-m", "umbel_cli", *words], self.folder, self.variables)
        try:
            yield service
        finally:
            service.end()


class Service:
    """A running command whose lines are kept.

    Args:
        command: program and arguments.
        folder: working directory.
        variables: the settings of this test.
    """

    def __init__(self, command: Sequence[str], folder: Path, variables: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **variables, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
            stderr=subprocess.STDOUT,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            self.lines += (line.rstrip() for line in iter(lines.readline, ""))

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def pid_of(self, name: str) -> int:
        """The process id of a member, as ``umbel up`` tells it."""
        line = next(line for line in self.lines if line.split()[:2] == [name, "pid"])
        return int(line.split()[2])

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """The exit code."""
        code = self.process.wait(60)
        self._reader.join(10)
        return code

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join(10)


def alive(pid: int) -> bool:
    """Whether a process runs; one that is dead but not yet buried does not."""
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, check=False, text=True
    ).stdout.strip()
    return bool(state) and not state.startswith("Z")


@pytest.fixture
def is_alive() -> Any:
    return alive


@pytest.fixture
def own(tmp_path: Path) -> Command:
    """The command with a state folder of its own, and so with a Redis of its own."""
    return Command({"UMBEL_STATE_DIR": str(tmp_path / "state")}, tmp_path)


@pytest.fixture
def shared(redis_url: str, namespace: str, tmp_path: Path) -> Command:
    """The command on the session's Redis, in a namespace of its own."""
    variables = {
        "UMBEL_REDIS_URL": redis_url,
        "UMBEL_NAMESPACE": namespace,
        "UMBEL_STATE_DIR": str(tmp_path / "state"),
    }
    return Command(variables, tmp_path)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear model that runs one job at a time, so that many jobs take a while."""
    module = torch.nn.Linear(4, 2)
    with torch.no_grad():
        module.weight.fill_(1.0)
        module.bias.zero_()
    return export_model(
        module,
        [0.0] * 4,
        tmp_path_factory.mktemp("model"),
        name="sum",
        batching={"max_batch_size": 1},
    )


@pytest.fixture
def push_model(model_folder: Path) -> Any:
    """Pushes the model without a process of its own, which would load torch once more."""

    def call(command: Command) -> None:
        settings = command.settings()
        with opened(settings) as client:
            catalog = Catalog(client, settings.namespace)
            push(model_folder, catalog=catalog, store=ArtifactStore(settings.artifacts))

    return call
