"""Watches one lane from outside: every push, every terminal record, and who holds a lease."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Any

import redis

from umbel_batching import replies
from umbel_batching.census import LaneStatus, lane_statuses
from umbel_batching.keys import lane_keys, reply_channel
from umbel_batching.lanes import slot_of
from umbel_batching.record import State, parse
from umbel_config.connect import connect
from umbel_config.settings import Settings

_READ_S = 0.2
_TOGETHER = 2000


class Witness:
    """Watches a lane; reads what the store holds, and writes nothing.

    Args:
        settings: which Redis and namespace.
        lane: name of the lane.

    Attributes:
        published: how often the outcome of each job was published, by job id.
        changed: uids of jobs whose record was seen to change after it had become terminal.
        client: a Redis client, for whoever asks more.
    """

    def __init__(self, settings: Settings, lane: str = "affine@1") -> None:
        self.published: Counter[str] = Counter()
        self.changed: list[str] = []
        self.client = connect(settings)
        self._lane, self._slot = lane, slot_of(lane)
        self._keys = lane_keys(settings.namespace, self._slot)
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
        statuses = lane_statuses(self.client, self._namespace)
        return next(status for status in statuses if status.lane == self._lane)

    def done(self) -> int:
        """How many jobs have succeeded or failed, from the lane's counters alone."""
        counters: Any = self.client.hmget(self._keys.lane, "succeeded", "failed")
        return sum(int(counter or 0) for counter in counters)

    def now_ms(self) -> int:
        """The server's time in ms since 1970, by which all records are dated."""
        seconds, micros = self.client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def look(self) -> int:
        """Compares all terminal records with how they were first seen; returns their number."""
        keys = list(self.client.scan_iter(f"{self._keys.job}*", count=5000))
        for at in range(0, len(keys), _TOGETHER):
            part = keys[at : at + _TOGETHER]
            records: Any = self.client.mget(part)
            for key, raw in zip(part, records, strict=True):
                if raw is not None:
                    self._compare(key.decode()[-32:], raw)
        return len(self._terminal)

    def states(self) -> Counter[State]:
        """How many terminal records there are of each state."""
        return Counter(parse(raw).state for raw in self._terminal.values())

    def waiting(self) -> list[str]:
        """The uids of the jobs that wait in the lane."""
        uids: Any = self.client.zrange(self._keys.waiting, 0, -1)
        return [uid.decode() for uid in uids]

    def held(self, pids: Collection[int] | None = None) -> dict[str, int]:
        """The jobs that are under a lease: uid to the process that holds it.

        Args:
            pids: look at the leases of these processes alone.
        """
        held: dict[str, int] = {}
        leases: Any = self.client.zrange(self._keys.leases, 0, -1)
        for batch in leases:
            known: Any = self.client.hmget(self._keys.batch + batch.decode(), "worker", "uids")
            worker, uids = known
            if worker and uids:
                pid = int(worker.rpartition(b":")[2])
                if pids is None or pid in pids:
                    held |= dict.fromkeys(uids.decode().split(), pid)
        return held

    def freezes_in_a_batch(self, pid: int) -> bool:
        """Stops a process with SIGSTOP; lets it go again unless it holds a lease."""
        os.kill(pid, signal.SIGSTOP)
        if self.held([pid]):
            return True
        os.kill(pid, signal.SIGCONT)
        return False

    def finished(self, uids: Iterable[str]) -> dict[str, int]:
        """When those of ``uids`` that are terminal became it, in ms of the server's clock."""
        times, batches = {}, self._settled()
        for uid in uids:
            raw = self._terminal.get(uid)
            if raw is not None:
                record = parse(raw)
                times[uid] = record.finished_ms or batches.get(record.batch, 0)
        return times

    def settles(self) -> list[int]:
        """When batches were settled, in ms of the server's clock, in order."""
        return sorted(self._settled().values())

    def close(self) -> None:
        """Ends the watching; a second call does nothing."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        self._pubsub.close()
        self._listener.close()
        self.client.close()

    def _settled(self) -> dict[str, int]:
        times = {}
        for key in self.client.scan_iter(f"{self._keys.batch}*", count=5000):
            settled: Any = self.client.hget(key, "settled")
            if settled:
                times[key.decode()[-32:]] = int(settled)
        return times

    def _compare(self, uid: str, raw: bytes) -> None:
        if parse(raw).state.terminal and self._terminal.setdefault(uid, raw) != raw:
            self.changed.append(uid)

    def _listen(self) -> None:
        while not self._stop.is_set():
            with suppress(redis.RedisError):
                self._hear()

    def _hear(self) -> None:
        message = self._pubsub.get_message(timeout=_READ_S)
        if message is not None and message["data"]:
            outcomes, named = replies.read(message["data"])
            jobs = [*(job for job, _ in outcomes), *named]
            self.published.update(job for job in jobs if job.startswith(self._slot))
