"""A million queued jobs: memory of each, speed beside a short lane, and every result afterwards.

Usage: python benchmarks/depth.py [--jobs 1000000] [--rounds 7]

Two lanes of one embedded Redis hold 10,000 and a million jobs of the model `tiny`. Rounds on both
alternate, so that their ratio means something on a busy machine: each submits jobs, claims as
many and settles them. In the end one worker drains everything, and each of the results
is compared with a local forward.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import redis
from models import WIDTH, build, forward, inputs

from umbel_batching import record, wire
from umbel_batching.calls import Calls
from umbel_batching.census import LaneStatus, lane_statuses
from umbel_batching.lanes import Lane, new_uid
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import NO_REPLY, State, tail
from umbel_batching.scripts import Runner
from umbel_batching.values import Claimed, NewJob, Settlement
from umbel_config.connect import connect
from umbel_config.embedded import EmbeddedRedis
from umbel_config.settings import Settings, load_settings
from umbel_registry import ArtifactStore, Catalog, export_model, push

SHORT, BUNDLE, TURN = 10_000, 256, 20_480
POLICY = BatchPolicy(max_batch_size=256, max_wait_ms=5, max_queue=10**7, max_queue_bytes=2**34)
TAIL = tail(NO_REPLY, b"")


class Line:
    """One lane and the rows of its jobs, in the order of their submit."""

    def __init__(self, runner: Runner, calls: Calls, version: str) -> None:
        self.lane = Lane(model="tiny", version=version, policy=POLICY)
        self._runner, self._calls = runner, calls
        self.uids: list[str] = []
        self.rows: list[np.ndarray[Any, Any]] = []

    def fill(self, count: int) -> float:
        """Submits ``count`` jobs; returns jobs per second."""
        rows = np.roll(inputs("tiny", count), len(self.uids), axis=0) + len(self.rows)
        self.rows.append(rows)
        jobs = [NewJob(new_uid(), TAIL + payload) for payload in wire.split(rows)]
        self.uids += [job.uid for job in jobs]
        started = time.perf_counter()
        for at in range(0, count, BUNDLE):
            self._runner.run(self._calls.submit(self.lane, jobs[at : at + BUNDLE]))
        return count / (time.perf_counter() - started)

    def claim(self, count: int) -> float:
        """Claims ``count`` jobs, then settles them; returns jobs claimed per second."""
        slot, batches = self.lane.slot, list[Claimed]()
        started = time.perf_counter()
        while sum(len(batch.uids) for batch in batches) < count:
            call = self._calls.claim(
                slot, batch=new_uid(), token="bench", worker="bench", lease_ms=600_000
            )
            batches.append(self._runner.run(call))
        rate = count / (time.perf_counter() - started)
        for batch in batches:
            self._settle(batch)
        self._runner.run(self._calls.release(slot, "bench"))
        return rate

    def _settle(self, batch: Claimed) -> None:
        payloads = [raw[record.body_offset(raw) :] for raw in batch.records]
        stacked = wire.stack(payloads)
        assert stacked is not None
        bodies = wire.split(forward(build("tiny"), stacked))
        records = [
            record.settled(raw, State.SUCCEEDED, body)
            for raw, body in zip(batch.records, bodies, strict=True)
        ]
        outcome = Settlement(batch.uids, records, len(records), {}, 0)
        self._runner.run(self._calls.settle(self.lane.slot, batch.batch, outcome))


def push_tiny(settings: Settings, client: redis.Redis, folder: Path) -> None:
    """Registers the model in two versions, one for each lane."""
    example = np.zeros(WIDTH["tiny"], np.float32)
    for version in ("1", "2"):
        target = folder / version
        batching = POLICY.model_dump()
        export_model(
            build("tiny"), example, target, name="tiny", version=version, batching=batching
        )
        push(
            target,
            catalog=Catalog(client, settings.namespace),
            store=ArtifactStore(settings.artifacts),
        )


def settle_down(client: redis.Redis) -> None:
    """Waits until Redis no longer rewrites its append-only file, which it does as that grows."""
    facts: Any = client.info("persistence")
    while facts["aof_rewrite_in_progress"] or facts["aof_rewrite_scheduled"]:
        time.sleep(0.5)
        facts = client.info("persistence")


def rates(lines: Sequence[Line], rounds: int) -> tuple[list[tuple[float, ...]], ...]:
    """Jobs per second of each lane, by round: submitted, and claimed.

    Args:
        lines: the lanes, which take turns.
        rounds: how many.
    """
    submits, claims = [], []
    for _ in range(rounds):
        pairs = [(line.fill(TURN), line.claim(TURN)) for line in lines]
        submits.append(tuple(submit for submit, _ in pairs))
        claims.append(tuple(claim for _, claim in pairs))
    return submits, claims


def compare(lines: Sequence[Line], rounds: int) -> None:
    """Prints the rates of both lanes and their ratios."""
    for what, pairs in zip(("submit", "claim"), rates(lines, rounds), strict=True):
        short, deep = (statistics.median(part) for part in zip(*pairs, strict=True))
        print(
            f"{what:7} {short:10,.0f}/s in the short lane, {deep:10,.0f}/s in the deep one: "
            f"{deep / short:.2f}"
        )


@contextmanager
def worker() -> Iterator[None]:
    """One worker process while the block runs."""
    command = [sys.executable, "-m", "umbel_cli", "worker", "--log-level", "warning"]
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def drain(client: redis.Redis, namespace: str) -> None:
    """Has one worker settle everything, and prints how fast."""
    total = sum(lane.waiting for lane in lane_statuses(client, namespace))
    started = time.perf_counter()
    with worker():
        while not all(_drained(lane) for lane in lane_statuses(client, namespace)):
            if time.perf_counter() - started > 1800:
                raise SystemExit("not drained after half an hour")
            time.sleep(0.5)
        elapsed = time.perf_counter() - started
    print(f"drained {total:,} jobs in {elapsed:.0f} s with one worker: {total / elapsed:,.0f}/s")


def _drained(lane: LaneStatus) -> bool:
    return lane.waiting == lane.running == 0


def check(line: Line, client: redis.Redis, calls: Calls) -> None:
    """Compares every result with a local forward."""
    runner, model = Runner(client), build("tiny")
    expected = forward(model, np.concatenate(line.rows))
    wrong = missing = 0
    for at in range(0, len(line.uids), BUNDLE):
        uids = line.uids[at : at + BUNDLE]
        records: list[bytes] = runner.run(calls.outcomes(line.lane.slot, uids))
        for raw, right in zip(records, expected[at : at + BUNDLE], strict=True):
            done = record.parse(raw) if raw else None
            if done is None or done.state is not State.SUCCEEDED:
                missing += 1
            elif not np.allclose(wire.decode(done.body), right, rtol=1e-4, atol=1e-3):
                wrong += 1
    print(f"{line.lane.name}: {len(line.uids):,} results, {missing} missing, {wrong} wrong")
    if missing or wrong:
        raise SystemExit(1)


def main() -> None:
    """Fills both lanes, compares them, drains and checks them."""
    parser = argparse.ArgumentParser(description="A million queued jobs.")
    parser.add_argument("--jobs", type=int, default=1_000_000, help="jobs in the deep lane")
    parser.add_argument("--rounds", type=int, default=7, help="rounds, alternating")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="umbel-depth-") as folder,
        EmbeddedRedis.start(Path(folder)) as server,
    ):
        os.environ |= {"UMBEL_REDIS_URL": server.url, "UMBEL_STATE_DIR": folder}
        settings = load_settings()
        client = connect(settings)
        push_tiny(settings, client, Path(folder) / "models")
        runner, calls = Runner(client), Calls.of(settings)
        short, deep = (Line(runner, calls, version) for version in ("1", "2"))
        short.fill(SHORT)
        before: Any = client.info("memory")
        deep.fill(args.jobs)
        after: Any = client.info("memory")
        each = (after["used_memory"] - before["used_memory"]) / args.jobs
        payload = len(next(iter(wire.split(inputs("tiny", 1)))))
        print(
            f"{args.jobs:,} queued jobs: {each:.0f} bytes of Redis each, of them {payload} payload"
        )
        settle_down(client)
        compare((short, deep), args.rounds)
        drain(client, settings.namespace)
        for line in (short, deep):
            check(line, client, calls)


if __name__ == "__main__":
    main()
