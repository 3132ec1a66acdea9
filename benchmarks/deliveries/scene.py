"""What every measurement of callbacks needs: a stack, receivers, and a reading of what they got."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from faults.processes import Process
from faults.rows import push_model
from faults.stage import Scale, Stage
from faults.waiting import until
from standardwebhooks import Webhook, WebhookVerificationError

from umbel import Client, Job
from umbel_batching.census import workers_of
from umbel_batching.keys import shared_keys
from umbel_callbacks import new_secret
from umbel_config.connect import connect

MODEL = "tiny"
SCALE = Scale(jobs=0, per_s=0, strikes=0, storm_s=0, pause_ms=0)
SECRET = new_secret()
#: Short enough that the bad receivers are through with all attempts while one looks on.
SETTINGS: dict[str, Any] = {
    "callback_secrets": (SECRET,),
    "callback_allow": ("127.0.0.1",),
    "callback_schedule_s": (0.3, 0.6, 1.2, 2.5, 5, 10),
    "callback_timeout_s": 2.0,
    "callback_connect_timeout_s": 1.0,
    "callback_read_timeout_s": 2.0,
    "lease_ms": 2000,
    "drain_budget_ms": 2000,
}


@dataclass(slots=True)
class Got:
    """What receivers got, checked.

    Attributes:
        posts: POSTs that came.
        taken: by ``data.id``, how often it came in a POST that was answered with 2xx.
        message_ids: by ``data.id``, the ``webhook-id`` that it came under.
        invalid: POSTs whose signature does not hold.
        delays_ms: from the end of a job to the arrival of its callback, by receiver.
    """

    posts: int = 0
    taken: Counter[str] = field(default_factory=Counter)
    message_ids: dict[str, set[str]] = field(default_factory=dict)
    invalid: int = 0
    delays_ms: dict[int, list[float]] = field(default_factory=dict)

    def add(self, receiver: int, post: list[Any]) -> None:
        """Adds one POST."""
        moment, status, headers, body = post
        self.posts += 1
        try:
            event = Webhook(SECRET).verify(body, headers)
        except WebhookVerificationError:
            self.invalid += 1
            return
        for each in event["data"] if isinstance(event["data"], list) else [event]:
            job_id = each["data"]["id"]
            self.message_ids.setdefault(job_id, set()).add(headers["webhook-id"])
            if 200 <= status < 300:
                self.taken[job_id] += 1
                ended = datetime.fromisoformat(each["timestamp"]).timestamp()
                self.delays_ms.setdefault(receiver, []).append((moment - ended) * 1000)


class Receivers:
    """Receivers in a process of their own.

    Args:
        kinds: one for each, see ``receivers``.
    """

    def __init__(self, kinds: Sequence[str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="umbel-receivers-")
        folder = Path(self._folder.name)
        words = ["-m", "deliveries.receivers", str(folder), *kinds]
        self._process = Process(words, {}, folder / "log")
        until((folder / "ports.json").exists, "receivers listen")
        ports = json.loads((folder / "ports.json").read_text())
        self.urls = [f"http://127.0.0.1:{port}/hook" for port in ports]

    def stop(self) -> Got:
        """Ends them; returns what they got."""
        folder = Path(self._folder.name)
        self._process.hang_up()
        until((folder / "got.json").exists, "receivers tell what they got")
        all_got, got = json.loads((folder / "got.json").read_text()), Got()
        for receiver, posts in enumerate(all_got):
            for post in posts:
                got.add(receiver, post)
        self._process.close()
        self._folder.cleanup()
        return got


@contextmanager
def stage(url: str, **overrides: Any) -> Iterator[Stage]:
    """A worker and a sender on a Redis, with the tiny model.

    Args:
        url: of the Redis.
        **overrides: of the settings.
    """
    with Stage(url, SCALE, **{**SETTINGS, **overrides}) as made:
        folder = made.folder / "model"
        folder.mkdir()
        push_model(made.settings, MODEL, folder)
        made.ensure_workers(1)
        yield made


def start_sender(made: Stage) -> Process:
    """Starts a sender, and waits until it is there."""
    process = made.start("sender")

    def is_there() -> bool:
        seconds, micros = made.redis.time()
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        queue = made.settings.callback_queue
        known = workers_of(made.redis, made.settings.namespace, queue, now_ms)
        return any(name.endswith(f":{process.pid}") for name in known)

    until(is_there, "a sender is there")
    return process


def rows(count: int) -> Any:
    """Rows ``[count, 10]`` of the tiny model."""
    return np.random.default_rng(0).uniform(-1, 1, (count, 10)).astype(np.float32)


def submit(client: Client, url: str, count: int, *, shared: bool = False) -> list[Job]:
    """Submits ``count`` jobs with callbacks to ``url``."""
    return client.submit_many(MODEL, rows(count), callback_url=url, callback_batch=shared)


def counters(made: Stage) -> dict[str, int]:
    """The counters of the outbox."""
    found: Any = made.redis.hgetall(shared_keys(made.settings.namespace).callbacks)
    return {name.decode(): int(value) for name, value in found.items()}


def delivered(made: Stage) -> int:
    """Callbacks delivered so far."""
    return counters(made).get("delivered", 0)


def over(made: Stage) -> int:
    """Callbacks delivered or given up so far."""
    return delivered(made) + counters(made).get("dead", 0)


def empty(url: str) -> None:
    """Removes everything from the Redis of the measurements."""
    with connect(url) as client:
        client.flushall()
