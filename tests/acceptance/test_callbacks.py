"""Callbacks as an operator and a receiver live with them: ``umbel up``, and a sender alone."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from umbel_callbacks import new_secret

#: What must not stand in the output of a sender that was stopped as it should be.
TROUBLE = ("Traceback", "Unclosed", "was never", "Task was destroyed", "killed", "not sent")


class Receiver(ThreadingHTTPServer):
    """Keeps what it is sent, and all connections open."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook?token=hidden"


class Handler(BaseHTTPRequestHandler):
    """One connection to a ``Receiver``."""

    protocol_version = "HTTP/1.1"
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((dict(self.headers.items()), body))
        self.send_response_only(204)
        self.end_headers()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def allowed(own: Any) -> Any:
    """The command with a Redis of its own, and receivers on this machine."""
    own.variables["UMBEL_CALLBACK_ALLOW"] = "127.0.0.0/8"
    return own


def test_a_stack_delivers_what_is_signed_by_the_secret_it_made(
    allowed: Any, push_model: Any, receiver: Receiver, wait_until: Any, is_alive: Any
) -> None:
    push_model(allowed)
    with allowed.running("up") as up:
        wait_until(lambda: "ready for jobs" in up.text, "stack ready", 60)
        assert is_alive(up.pid_of("sender"))
        told = allowed.json("submit", "sum", "[1, 2, 3, 4]", "--callback-url", receiver.url)
        wait_until(lambda: receiver.requests, "the callback comes")
        (headers, body) = receiver.requests[0]
        path = Path(allowed.variables["UMBEL_STATE_DIR"]) / "callback-secret"
        assert path.stat().st_mode & 0o777 == 0o600
        secret = path.read_text().strip()
        event: Any = Webhook(secret).verify(body, headers)
        assert event["type"] == "job.succeeded"
        assert (event["data"]["id"], event["data"]["output"]) == (told["id"], [10.0, 10.0])
        assert headers["webhook-id"] == told["id"]

        def fares() -> Any:
            return allowed.json("job", told["id"])["callback"]

        wait_until(lambda: fares()["state"] == "delivered", "it is known to be delivered")
        assert (fares()["attempts"], fares()["last_status"]) == (1, 204)
        up.send(signal.SIGTERM)
        assert up.wait() == 0, up.text
    assert "callback-secret (signs callbacks)" in up.text
    assert secret not in up.text
    assert "hidden" not in up.text
    assert not [trouble for trouble in TROUBLE if trouble in up.text], up.text
    assert len(receiver.requests) == 1


def test_a_sender_that_was_away_delivers_what_waits_and_stops_at_once(
    shared: Any, push_model: Any, receiver: Receiver, wait_until: Any
) -> None:
    secret = new_secret()
    shared.variables["UMBEL_CALLBACK_ALLOW"] = "127.0.0.0/8"
    shared.variables["UMBEL_CALLBACK_SECRETS"] = secret
    push_model(shared)
    words = ("submit", "sum", "[1, 2, 3, 4]", "--no-wait", "--callback-url", receiver.url)
    (ids, _), (others, _) = shared.run(*words), shared.run(*words)
    shared.run("cancel", ids.strip())
    shared.run("cancel", others.strip())
    assert receiver.requests == []
    with shared.running("sender") as sender:
        wait_until(lambda: len(receiver.requests) == 2, "both callbacks come", 60)
        for headers, body in receiver.requests:
            assert Webhook(secret).verify(body, headers)
        sender.send(signal.SIGTERM)
        assert sender.wait() == 0, sender.text
    kinds = {json.loads(body)["data"]["id"] for _, body in receiver.requests}
    assert kinds == {ids.strip(), others.strip()}
    assert not [trouble for trouble in TROUBLE if trouble in sender.text], sender.text


def test_a_sender_without_a_secret_says_what_to_do(shared: Any) -> None:
    out, err = shared.run("sender", code=2)
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "callback_secrets is empty: make a secret with `umbel callbacks secret`" in err


def test_a_refused_url_is_one_line(shared: Any, push_model: Any) -> None:
    push_model(shared)
    words = ("submit", "sum", "[1, 2, 3, 4]", "--callback-url", "http://127.0.0.1:1/hidden")
    out, err = shared.run(*words, code=1)
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "callback_allow" in err
    assert "hidden" not in err
