"""What all tests share: a real Redis, a fresh namespace each, clean surroundings, no sleeping."""

from __future__ import annotations

import asyncio
import fnmatch
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import hypothesis
import pytest
import redis
import yaml
from faults.feed import Feed

from umbel_batching.flusher import Drain, Flusher
from umbel_batching.keys import shared_keys
from umbel_batching.retention import Retention
from umbel_config.connect import connect
from umbel_config.embedded import EmbeddedRedis
from umbel_config.errors import StoreUnavailable
from umbel_config.server_binary import find_server
from umbel_config.settings import Settings, load_settings
from umbel_registry import Catalog, Manifest

#: Set to a Redis URL to run the tests on that server instead of an embedded one.
SERVER_VARIABLE = "UMBEL_TEST_REDIS_URL"
POLL_S = 0.02

# On CI the same examples run each time; locally Hypothesis goes on exploring. No deadline: a shared
# machine pauses at will, and a timing is a benchmark, never a test.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


class WaitUntil(Protocol):
    """The ``wait_until`` fixture."""

    def __call__(
        self, predicate: Callable[[], object], description: str, timeout: float = 20.0
    ) -> Any:
        """Polls ``predicate`` until it is true and returns what it returned."""


class WaitUntilAsync(Protocol):
    """The ``wait_until_async`` fixture."""

    def __call__(
        self, predicate: Callable[[], Awaitable[object]], description: str, timeout: float = 20.0
    ) -> Awaitable[Any]:
        """Polls an awaitable ``predicate`` until it is true and returns what it returned."""


class NoKeyLeaks(Protocol):
    """The ``no_key_leaks`` fixture."""

    def __call__(
        self, namespace: str, permanent: Sequence[str] = ()
    ) -> AbstractContextManager[None]:
        """Fails when the block leaves keys without a TTL, but for the patterns in ``permanent``."""


class MakeSettings(Protocol):
    """The ``settings`` fixture."""

    def __call__(self, **overrides: Any) -> Settings:
        """Settings of this test's Redis, namespace and folder, with ``overrides``."""


def _ours() -> list[str]:
    return [name for name in os.environ if name.startswith("UMBEL_") and name != SERVER_VARIABLE]


def pytest_configure() -> None:
    """Keeps the caller's settings out of session fixtures too."""
    for name in _ours():
        del os.environ[name]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the user's settings or touches the user's state folder."""
    for name in _ours():
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state-home"))


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real Redis for the whole session."""
    given = os.environ.get(SERVER_VARIABLE)
    if given:
        yield given
        return
    with EmbeddedRedis.start(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The URL of the session's Redis."""
    return redis_server


@pytest.fixture
def namespace(redis_url: str) -> Iterator[str]:
    """A namespace that no other test uses; its keys are removed afterwards."""
    name = f"t{uuid.uuid4().hex[:12]}"
    yield name
    with connect(redis_url) as client:
        for key in client.scan_iter(match=f"{name}*", count=1000):
            client.delete(key)


@pytest.fixture
def store_redis(redis_url: str, namespace: str) -> Iterator[redis.Redis]:
    """A client of the session's Redis; use it with ``namespace``."""
    with connect(redis_url, client_name=f"test-{namespace}") as client:
        yield client


@pytest.fixture
def settings(redis_url: str, namespace: str, tmp_path: Path) -> MakeSettings:
    """A factory of settings that point to this test's Redis, namespace and folder."""

    def make(**overrides: Any) -> Settings:
        given = {"redis_url": redis_url, "namespace": namespace, "state_dir": tmp_path / "state"}
        return load_settings(**(given | overrides))

    return make


@pytest.fixture
def no_key_leaks(redis_url: str) -> NoKeyLeaks:
    """A context manager that fails a test which leaves keys that would stay for ever."""

    @contextmanager
    def guard(namespace: str, permanent: Sequence[str] = ()) -> Iterator[None]:
        yield
        with connect(redis_url) as client:
            leaked = sorted(
                key.decode()
                for key in client.scan_iter(match=f"{namespace}*", count=1000)
                if client.ttl(key) == -1
            )
        left = [key for key in leaked if not any(fnmatch.fnmatchcase(key, p) for p in permanent)]
        assert not left, f"keys without a TTL are left behind: {left}"

    return guard


@pytest.fixture(scope="session")
def wait_until() -> WaitUntil:
    """Waits for a condition, and says which one when it never comes."""

    def wait(predicate: Callable[[], object], description: str, timeout: float = 20.0) -> Any:
        deadline = time.monotonic() + timeout
        while True:
            seen = predicate()
            if seen:
                return seen
            if time.monotonic() >= deadline:
                pytest.fail(f"waited {timeout:g} s in vain: {description}")
            time.sleep(POLL_S)

    return wait


@pytest.fixture(scope="session")
def wait_until_async() -> WaitUntilAsync:
    """The asyncio twin of ``wait_until``."""

    async def wait(
        predicate: Callable[[], Awaitable[object]],
        description: str,
        timeout: float = 20.0,  # noqa: ASYNC109  (the same signature as wait_until)
    ) -> Any:
        deadline = time.monotonic() + timeout
        while True:
            seen = await predicate()
            if seen:
                return seen
            if time.monotonic() >= deadline:
                pytest.fail(f"waited {timeout:g} s in vain: {description}")
            await asyncio.sleep(POLL_S)

    return wait


HANDLERS = Path(__file__).parent / "handlers"
HANDLER_MODULE = "umbel_test_handlers"
_FLOATS = {"dtype": "float32", "shape": [4]}


class Register(Protocol):
    """The ``register`` fixture."""

    def __call__(
        self,
        settings: Settings,
        name: str = "affine",
        handler: str = "Affine",
        inputs: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
        **batching: int,
    ) -> Manifest:
        """Pushes a handler of ``handlers/`` as the next version of model ``name``."""


@pytest.fixture
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Register:
    """Makes models known without exporting any."""
    monkeypatch.syspath_prepend(HANDLERS)

    def make(
        settings: Settings,
        name: str = "affine",
        handler: str = "Affine",
        inputs: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
        **batching: int,
    ) -> Manifest:
        from umbel_registry import ArtifactStore, push  # needs torch, as few tests do

        folder = tmp_path / f"model-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        content = {
            "name": name,
            "format": "handler",
            "handler": f"{HANDLER_MODULE}:{handler}",
            "inputs": inputs or {"x": _FLOATS},
            "outputs": outputs or {"y": _FLOATS},
            "batching": {"max_batch_size": 16, "max_wait_ms": 2, **batching},
        }
        (folder / "model.yaml").write_text(yaml.safe_dump(content))
        with connect(settings) as client:
            return push(
                folder,
                catalog=Catalog(client, settings.namespace),
                store=ArtifactStore(settings.artifacts),
                allowed_modules=(HANDLER_MODULE,),
            )

    return make


class Serving:
    """A flusher and drainers in threads of this process: all of a worker but Celery.

    Args:
        settings: which Redis and namespace.
        threads: drains side by side.
        deliver: how often a hint reaches a drainer; a lossy broker returns 0 or 2 at times.
    """

    def __init__(
        self, settings: Settings, threads: int = 1, deliver: Callable[[], int] | None = None
    ) -> None:
        from umbel_worker.runtime import make_process  # needs torch, as few tests do

        self.stop = threading.Event()
        self.process = make_process(settings, self.stop)
        self.drainer = self.process.drainer
        self.outages: list[Exception] = []
        self._deliver = deliver or (lambda: 1)
        self._pool = ThreadPoolExecutor(threads)
        self._drains: list[Future[None]] = []
        self._flusher = Flusher(
            connect(settings, purpose="blocking"),
            settings.namespace,
            self._dispatch,
            max_attempts=settings.max_attempts,
            keep=Retention.of(settings),
        )
        self._thread = threading.Thread(target=self._flusher.run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends all threads; raises what a drain raised beside outages of the store."""
        self.stop.set()
        self._flusher.stop()
        signal_key = shared_keys(self.drainer.calls.namespace).signal
        self.drainer.runner.client.zadd(signal_key, {"!": 0})  # ends its blocking read at once
        self._thread.join()
        self._pool.shutdown()
        self.process.mirror.stop()
        self.drainer.leases.stop()
        self.drainer.runner.client.close()
        for drain in self._drains:
            drain.result()

    def _dispatch(self, drain: Drain) -> None:
        self._drains += [self._pool.submit(self._run, drain) for _ in range(self._deliver())]

    def _run(self, drain: Drain) -> None:
        try:
            self.drainer.drain(drain.lane, drain.token)
        except (redis.RedisError, OSError, StoreUnavailable) as error:
            self.outages.append(error)


@pytest.fixture
def serve() -> Iterator[Callable[..., Serving]]:
    """Starts ``Serving``, and ends it with the test."""
    with ExitStack() as stack:

        def start(settings: Settings, **options: Any) -> Serving:
            serving = Serving(settings, **options)
            stack.callback(serving.close)
            return serving

        yield start


class OwnRedis:
    """A Redis server for one test, that may be killed and started again with its data.

    Args:
        arguments: more of them for the server.
    """

    def __init__(self, *arguments: str) -> None:
        # Not under tmp_path: the path of a socket has at most 107 characters.
        self._folder = Path(tempfile.mkdtemp(prefix="umbel-test-"))
        self.url = f"unix://{self._folder}/s"
        self._arguments = arguments
        self.start()

    def start(self) -> None:
        """Starts it and waits until it has loaded its data."""
        server = [str(find_server().path), "--port", "0", "--unixsocket", f"{self._folder}/s"]
        files = ["--dir", str(self._folder), "--save", "", "--logfile", f"{self._folder}/log"]
        self._process = subprocess.Popen([*server, *files, *self._arguments])
        deadline = time.monotonic() + 20
        while not self._answers():
            assert time.monotonic() < deadline, (self._folder / "log").read_text()
            time.sleep(POLL_S)

    def kill(self) -> None:
        """Ends it at once, as a power cut would."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Ends it, and removes its data."""
        self.kill()
        shutil.rmtree(self._folder)

    def _answers(self) -> bool:
        try:
            with connect(self.url, retries=0) as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False


@pytest.fixture
def own_redis() -> Iterator[Callable[..., OwnRedis]]:
    """Starts a Redis of the test's own; it ends with the test."""
    with ExitStack() as stack:

        def start(*arguments: str) -> OwnRedis:
            server = OwnRedis(*arguments)
            stack.callback(server.close)
            return server

        yield start


class Worker:
    """A worker process, as an operator would start it.

    Args:
        settings: which Redis, namespace, folders and pool.
        name: unique among the workers of the namespace.
        log: file for its output.
        environment: more variables for it.
    """

    def __init__(
        self, settings: Settings, name: str, log: Path, environment: Mapping[str, str]
    ) -> None:
        given = settings.model_dump(mode="json", exclude_defaults=True)
        assert settings.redis_url is not None
        given |= {"redis_url": settings.redis_url.get_secret_value()}
        given |= {"allowed_modules": HANDLER_MODULE}
        own = {f"UMBEL_{key.upper()}": str(value) for key, value in given.items()}
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "umbel_worker.app", "worker"]
                + ["--loglevel", "INFO", "--hostname", f"{name}@%h"],
                env={**os.environ, "PYTHONPATH": str(HANDLERS), **own, **environment},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the worker and its pool."""
        os.killpg(self.pid, number)

    def kill(self) -> None:
        """Ends it at once."""
        self.signal(signal.SIGKILL)
        self._process.wait()

    def close(self, timeout: float = 20.0) -> None:
        """Ends it as an operator would, and by force if that takes too long."""
        if self._process.poll() is not None:
            return
        self.signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"worker did not end:\n{self.log.read_text()[-3000:]}")


@pytest.fixture
def start_worker(tmp_path: Path, wait_until: WaitUntil) -> Iterator[Callable[..., Worker]]:
    """Starts worker processes, waits until they serve or have died; they end with the test."""
    with ExitStack() as stack:
        numbers = iter(range(100))

        def start(settings: Settings, **environment: str) -> Worker:
            number = next(numbers)
            log = tmp_path / f"worker-{number}.log"
            worker = Worker(settings, f"w{number}", log, environment)
            stack.callback(worker.close)
            wait_until(
                lambda: " ready." in log.read_text() or not worker.alive,
                f"worker {number} is ready",
                60,
            )
            return worker

        yield start


@pytest.fixture
def feed() -> Iterator[Callable[[Settings], Feed]]:
    """Starts ``Feed``, and ends it with the test."""
    with ExitStack() as stack:

        def start(settings: Settings) -> Feed:
            made = Feed(settings)
            stack.callback(made.end)
            return made

        yield start
