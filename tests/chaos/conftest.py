"""What all chaos tests watch: every push, every terminal record, and who holds a lease."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import redis

from umbel_batching import replies
from umbel_batching.census import LaneStatus, lane_statuses
from umbel_batching.keys import lane_keys, reply_channel
from umbel_batching.lanes import slot_of
from umbel_batching.record import State, parse
from umbel_config.connect import connect
from umbel_config.settings import Settings

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import Worker


class Witness:
    """Watches a namespace from outside.

    Attributes:
        published: how often the outcome of each job was published.
        changed: jobs whose record was seen to change after it had become terminal.
    """

    def __init__(self, settings: Settings, lane: str = "affine@1") -> None:
        self.published: Counter[str] = Counter()
        self.changed: list[str] = []
        self.client = connect(settings)
        self._keys = lane_keys(settings.namespace, slot_of(lane))
        self._namespace = settings.namespace
        self._terminal: dict[str, bytes] = {}
        self._listener = connect(settings, purpose="pubsub")
        self._pubsub = self._listener.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        self._pubsub.psubscribe(reply_channel(settings.namespace, "*"))
        self._pubsub.get_message(timeout=1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def lane(self) -> LaneStatus:
        """The lane's counters."""
        (status,) = lane_statuses(self.client, self._namespace)
        return status

    def look(self) -> int:
        """Compares all terminal records with how they were first seen; returns their number."""
        keys = list(self.client.scan_iter(f"{self._keys.job}*", count=5000))
        for at in range(0, len(keys), 2000):
            part = keys[at : at + 2000]
            records: Any = self.client.mget(part)
            for key, raw in zip(part, records, strict=True):
                self._compare(key.decode()[-32:], raw)
        return len(self._terminal)

    def states(self) -> Counter[State]:
        """How many terminal records there are of each state."""
        return Counter(parse(raw).state for raw in self._terminal.values())

    def freezes_in_a_batch(self, worker: Worker) -> bool:
        """Stops a worker with SIGSTOP; lets it go again unless it holds a lease."""
        worker.signal(signal.SIGSTOP)
        leases: Any = self.client.zrange(self._keys.leases, 0, -1)
        for batch in leases:
            holder: Any = self.client.hget(self._keys.batch + batch.decode(), "worker")
            if holder and holder.endswith(b":%d" % worker.pid):
                return True
        worker.signal(signal.SIGCONT)
        return False

    def close(self) -> None:
        """Ends the watching."""
        self._stop.set()
        self._thread.join()
        self._pubsub.close()
        self._listener.close()
        self.client.close()

    def _compare(self, uid: str, raw: bytes) -> None:
        if parse(raw).state.terminal and self._terminal.setdefault(uid, raw) != raw:
            self.changed.append(uid)

    def _listen(self) -> None:
        while not self._stop.is_set():
            try:
                message = self._pubsub.get_message(timeout=0.2)
            except redis.RedisError:
                continue
            if message is not None:
                outcomes, named = replies.read(message["data"])
                self.published.update([*(job for job, _ in outcomes), *named])


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
