"""The sender of a worker process: one thread for all its turns, and a task that never fails."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from umbel_batching.calls import Calls
from umbel_batching.lanes import Lane, new_uid
from umbel_batching.receivers import read_callback
from umbel_batching.record import NO_REPLY, encode_callback, tail
from umbel_batching.scripts import Runner
from umbel_batching.values import NewJob
from umbel_callbacks.signing import new_secret, verify
from umbel_config.connect import connect
from umbel_config.errors import ConfigError
from umbel_config.settings import Settings, environment
from umbel_worker import sending
from umbel_worker.app import make_app
from umbel_worker.dispatch import DELIVER
from umbel_worker.sending import SenderThread

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import MakeSettings, OwnRedis, WaitUntil

SECRET = new_secret()
LANE = Lane(model="affine", version="1")


class Receiver(ThreadingHTTPServer):
    """Takes every callback, once it is open.

    Attributes:
        bodies: what callbacks said, their signatures verified.
        connections: how many were made.
        open: unset, it lets callbacks wait for their answer.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: list[Any] = []
        self.connections = self.waiting = 0
        self.open = threading.Event()
        self.open.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook"


class Handler(BaseHTTPRequestHandler):
    """One connection to a ``Receiver``."""

    protocol_version = "HTTP/1.1"
    server: Receiver

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.waiting += 1
        self.server.open.wait(20)
        self.server.bodies.append(verify(dict(self.headers.items()), body, SECRET))
        self.send_response_only(204)
        self.end_headers()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.open.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def site(settings: MakeSettings) -> Settings:
    return settings(
        callback_secrets=(SECRET,), callback_allow=("127.0.0.0/8",), queues=("umbel-callbacks",)
    )


@pytest.fixture
def start() -> Iterator[Callable[[Settings], SenderThread]]:
    """Starts senders, and closes them with the test."""
    made: list[SenderThread] = []

    def make(site: Settings) -> SenderThread:
        made.append(SenderThread(site))
        return made[-1]

    yield make
    for sender in made:
        sender.close()


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "umbel-sender"]


def end_a_job(site: Settings, url: str) -> str:
    """A job that is cancelled at once, and so owes its callback."""
    job = NewJob(new_uid(), tail(NO_REPLY, b"", callback=encode_callback(url)) + b"payload")
    with connect(site) as client:
        runner, calls = Runner(client), Calls.of(site)
        runner.run(calls.submit(LANE, [job]))
        assert runner.run(calls.cancel(LANE.slot, job.uid))[0]
    return f"{LANE.slot}-{job.uid}"


def state_of(site: Settings, job_id: str) -> str:
    with connect(site) as client:
        found = read_callback(client, site.namespace, job_id)
    assert found is not None
    assert found[1] is not None
    return found[1].state


def test_connections_outlive_a_turn(
    site: Settings, receiver: Receiver, start: Callable[[Settings], SenderThread]
) -> None:
    sender = start(site)
    for place in range(3):
        job_id = end_a_job(site, receiver.url)
        sender.turn(f"token-{place}", 10.0)
        assert receiver.bodies[place]["data"]["id"] == job_id
        assert state_of(site, job_id) == "delivered"
    assert receiver.connections == 1


def test_a_turn_tells_what_it_did_and_ends_with_its_flag(
    site: Settings, receiver: Receiver, start: Callable[[Settings], SenderThread]
) -> None:
    flag = threading.Event()
    flag.set()
    end_a_job(site, receiver.url)
    assert start(site).turn("token", 10.0, flag).posts == 0
    assert receiver.bodies == []


@pytest.mark.parametrize(("answered", "state"), [(True, "delivered"), (False, "pending")])
def test_closing_waits_as_long_as_an_attempt_may_take_and_ends_the_thread(
    site: Settings, receiver: Receiver, wait_until: WaitUntil, answered: bool, state: str
) -> None:
    receiver.open.clear()
    short = site if answered else site.model_copy(update={"callback_timeout_s": 0.5})
    job_id = end_a_job(short, receiver.url)
    before = threads()
    sender = SenderThread(short)
    assert len(threads()) == len(before) + 1
    sender.turn("token", 0.1)
    wait_until(lambda: receiver.waiting, "it is under way")
    closing = threading.Thread(target=sender.close)
    closing.start()
    if answered:
        closing.join(0.2)
        assert closing.is_alive(), "it did not wait for what is under way"
        receiver.open.set()
    closing.join(10)
    assert threads() == before
    assert state_of(short, job_id) == state


@pytest.mark.parametrize(
    "wrong",
    [
        {"callback_secrets": ()},
        {"callback_secrets": ("whsec_short",)},
        {"callback_allow": ("http://not.a.host/",)},
        {"callback_nameservers": ("not an address",)},
        {"callback_link": "nowhere"},
    ],
)
def test_a_wrong_setting_leaves_no_thread(site: Settings, wrong: dict[str, Any]) -> None:
    before = threads()
    given = {**site.model_dump(), **wrong}
    with pytest.raises(ConfigError):
        SenderThread(Settings(**given))
    assert threads() == before


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Settings], Any]]:
    """Runs the task here, as a worker does that has these settings."""

    def run(site: Settings) -> Any:
        for name, value in environment(site).items():
            monkeypatch.setenv(name, value)
        app: Celery = make_app(site)
        app.loader.import_default_modules()
        return app.tasks[DELIVER].apply(task_id="token").result

    yield run
    sending.close()
    assert sending._own.made is None


def test_the_task_delivers_and_tells_how_many(
    site: Settings, receiver: Receiver, task: Callable[[Settings], Any]
) -> None:
    for _ in range(2):
        job_id = end_a_job(site, receiver.url)
        assert task(site) == {"posts": 1, "delivered": 1, "again": 0, "dead": 0}
        assert state_of(site, job_id) == "delivered"
    assert receiver.connections == 1
    assert "whsec_" not in repr(sending._own.made)


def test_an_outage_ends_the_task_quietly_and_the_next_one_delivers(
    site: Settings,
    receiver: Receiver,
    task: Callable[[Settings], Any],
    own_redis: Callable[..., OwnRedis],
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = own_redis("--appendonly", "yes", "--appendfsync", "always")
    given = {**site.model_dump(), "redis_url": server.url, "redis_retries": 0}
    away = Settings(**given)
    job_id = end_a_job(away, receiver.url)
    server.kill()
    assert task(away) == {"posts": 0, "error": "ConnectionError"}
    assert "ConnectionError; callbacks wait for the next call" in caplog.text
    server.start()
    assert task(away)["delivered"] == 1
    assert state_of(away, job_id) == "delivered"


def test_a_wrong_setting_ends_the_task_with_a_sentence(
    site: Settings, task: Callable[[Settings], Any], caplog: pytest.LogCaptureFixture
) -> None:
    without = site.model_copy(update={"callback_secrets": ()})
    with caplog.at_level(logging.ERROR, "umbel.sender"):
        assert task(without) == {"posts": 0, "error": "ConfigError"}
    assert "callbacks wait: Callbacks are signed, and callback_secrets is empty" in caplog.text
    assert sending._own.made is None
    assert task(site)["posts"] == 0
    assert sending._own.made is not None


def test_closing_twice_is_closing_once(site: Settings, task: Callable[[Settings], Any]) -> None:
    task(site)
    before = len(threads())
    sending.close()
    sending.close()
    assert len(threads()) == before - 1
