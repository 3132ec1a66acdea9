"""Everybody who takes part, started one after the other; who cannot start is named, with why."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

from faults.closing import Closing
from faults.waiting import NeverHappened, until

from suite.contestant import Contestant
from suite.contestants.celery_common import URL
from suite.environments import NotInstalled, is_made, python_of, version_of
from suite.names import (
    ASYNC,
    BATCHES,
    BULK,
    CELERY,
    LITSERVE,
    MODELS,
    MOSEC,
    PEERS,
    PRODUCERS,
    RAW,
    SEVERAL,
    THREADS,
)
from suite.processes import Process, paths
from suite.remote import DriverFailed, Remote
from suite.stack import Stack
from suite.truth import Truth, WrongAnswer
from umbel_config.connect import celery_broker_url
from umbel_config.embedded import EmbeddedRedis

#: Whatever keeps one contestant, but no other, from being measured.
PROBLEMS: Final = (NotInstalled, DriverFailed, NeverHappened, WrongAnswer)
#: Keep-alive connections of the HTTP clients: for a batch that is computed and one that gathers.
CONNECTIONS: Final = {MOSEC: 128, LITSERVE: 128}
_START_S = 90.0


class Field(Closing):
    """All contestants, up and answering, and frozen.

    Args:
        folder: for data and logs.
        stack: umbel's.
        truth: the right answers.
        say: is told what goes on.

    Attributes:
        contestants: in the order in which they are measured.
        versions: of peers, by name.
    """

    def __init__(
        self, folder: Path, stack: Stack, truth: Truth, say: Callable[[str], None]
    ) -> None:
        self._folder, self._umbel, self._truth = folder, stack, truth
        self._say, self._stack = say, ExitStack()
        self.versions: dict[str, str] = {}
        self._celery_url = ""
        self.contestants = [self._raw()]
        self.contestants += [self._peer(name) for name in PEERS]
        self.contestants += self._ways()

    def of(self, name: str) -> Contestant:
        """The contestant of that name."""
        return next(each for each in self.contestants if each.name == name)

    def close(self) -> None:
        """Ends all of them, side by side."""
        for each in self.contestants:
            for process in (*each.drivers, *each.servers):
                process.ask_to_end()
        self._stack.close()

    def _raw(self) -> Contestant:
        words = ["-m", "suite.contestants.raw", str(self._umbel.threads)]
        driver = self._remote("raw", sys.executable, words, umbel=True)
        return Contestant(RAW, [driver])

    def _ways(self) -> list[Contestant]:
        drivers = [self._umbel.driver("map", number) for number in range(PRODUCERS)]
        return [
            Contestant(BULK, drivers[:1]),
            Contestant(ASYNC, [self._umbel.driver("async")]),
            Contestant(THREADS, [self._umbel.driver("threads")]),
            Contestant(SEVERAL, drivers),
        ]

    def _peer(self, name: str) -> Contestant:
        self._say(f"starting {name}")
        start = {
            CELERY: self._plain_celery,
            BATCHES: self._celery_batches,
            MOSEC: self._mosec,
            LITSERVE: self._litserve,
        }[name]
        try:
            made = start()
            for model in MODELS:
                until(partial(self._answers, made, model), f"{name} answers", _START_S)
        except PROBLEMS as error:
            self._say(f"{name} is not measured: {error}")
            return Contestant(name, [], problem=str(error))
        for server in made.servers:
            server.freeze()
        return made

    def _answers(self, contestant: Contestant, model: str) -> bool:
        """Whether it is up by now; one whose server has ended will never be."""
        try:
            contestant.wake(model, self._truth)
        except DriverFailed:
            time.sleep(0.2)
            for server in contestant.servers:
                if not server.alive():
                    raise NeverHappened(f"its server ended: {server.said()}") from None
            return False
        return True

    def _plain_celery(self) -> Contestant:
        self.versions[CELERY] = version_of(Path(sys.executable), "celery")
        return self._celery(CELERY, "plain_celery", Path(sys.executable))

    def _celery_batches(self) -> Contestant:
        python = self._python("celery_batches")
        celery = version_of(python, "celery")
        self.versions[BATCHES] = f"{version_of(python, 'celery-batches')} on Celery {celery}"
        return self._celery(BATCHES, "celery_batches", python)

    def _celery(self, name: str, module: str, python: Path) -> Contestant:
        if not self._celery_url:
            redis = EmbeddedRedis.start(self._folder / "celery")
            self._celery_url = celery_broker_url(self._stack.enter_context(redis).url)
        words = ["-m", "celery", "-A", f"suite.contestants.{module}", "worker"]
        words += ["--concurrency", "2", "--pool", "prefork", "--loglevel", "ERROR"]
        words += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        server = self._process(module, python, words)
        driver = self._remote(module, str(python), ["-m", f"suite.contestants.{module}"])
        return Contestant(name, [driver], [server])

    def _mosec(self) -> Contestant:
        python = self._python("mosec")
        self.versions[MOSEC] = version_of(python, "mosec")
        options = ["--address", "127.0.0.1", "--timeout", "30000", "--log-level", "warning"]
        return self._http(
            MOSEC,
            python,
            "msgpack",
            lambda model, port: [
                *("-m", "suite.contestants.mosec_server", model, str(self._umbel.threads)),
                *(*options, "--port", str(port), "--path", str(self._folder / f"mosec-{model}")),
            ],
        )

    def _litserve(self) -> Contestant:
        python = self._python("litserve")
        self.versions[LITSERVE] = version_of(python, "litserve")
        words = ["-m", "suite.contestants.litserve_server"]
        return self._http(
            LITSERVE,
            python,
            "json",
            lambda model, port: [*words, model, str(self._umbel.threads), str(port)],
        )

    def _http(
        self, name: str, python: Path, codec: str, words: Callable[[str, int], list[str]]
    ) -> Contestant:
        ports = {model: _free_port() for model in MODELS}
        servers = [
            self._process(f"{name}-{model}", python, words(model, port))
            for model, port in ports.items()
        ]
        pairs = [f"{model}={port}" for model, port in ports.items()]
        command = ["-m", "suite.contestants.http_driver", codec, str(CONNECTIONS[name]), *pairs]
        return Contestant(name, [self._remote(name, str(python), command)], servers)

    def _python(self, name: str) -> Path:
        if not is_made(name):
            self._say(f"making the environment of {name} (a minute, the first time)")
        return python_of(name)

    def _process(self, name: str, python: Path, words: list[str]) -> Process:
        log = self._folder / f"{name}-server.log"
        return self._stack.enter_context(Process([str(python), *words], self._variables(), log))

    def _remote(self, name: str, python: str, words: list[str], *, umbel: bool = False) -> Remote:
        variables = paths(umbel=True) if umbel else self._variables()
        log = self._folder / f"{name}-driver.log"
        return self._stack.enter_context(Remote([python, *words], variables, log))

    def _variables(self) -> dict[str, str]:
        return paths(umbel=False) | ({URL: self._celery_url} if self._celery_url else {})


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
