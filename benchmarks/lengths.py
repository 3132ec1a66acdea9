"""How much padding looking ahead saves, and how long who waits for it: counted, not timed.

Usage: python benchmarks/lengths.py [--texts 12000]

The scripts form batches of 64 out of a line that is kept at a constant depth, of the sentences that
`benchmarks/minilm.py` embeds; their lengths are their bytes. Nothing is computed, so the figures
hardly depend on the machine.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import redis
from minilm import BATCH, SEED, sentences

from umbel_batching.calls import Calls
from umbel_batching.lanes import Lane, new_uid
from umbel_batching.length import code_of
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import NO_REPLY, tail
from umbel_batching.scripts import Runner
from umbel_batching.values import NewJob
from umbel_config.connect import connect
from umbel_config.embedded import EmbeddedRedis

DEPTHS, AHEAD, COST = (128, 512, 2048), (1, 2, 4, 8, 16, 32), 8192


class Line:
    """A lane that is kept at one depth.

    Args:
        client: of an empty Redis.
        policy: of the lane.
        lengths: of its jobs, in the order in which they come.
    """

    def __init__(self, client: redis.Redis, policy: BatchPolicy, lengths: Sequence[int]) -> None:
        self._runner, self._calls = Runner(client), Calls("lengths")
        self._lane = Lane(model="any", version=new_uid(), policy=policy)
        self._left = list(lengths[::-1])
        self._known: dict[str, tuple[int, int]] = {}
        self._claims = 0

    def _submit(self, count: int) -> None:
        lengths = [self._left.pop() for _ in range(min(count, len(self._left)))]
        new = [
            NewJob(new_uid(), tail(NO_REPLY, b"", length=code_of(length)) + b"x")
            for length in lengths
        ]
        for job, length in zip(new, lengths, strict=True):
            self._known[job.uid] = length, self._claims
        self._runner.run(self._calls.submit(self._lane, new))

    def batches(self, depth: int) -> Iterator[list[tuple[int, int]]]:
        """Length of each job and how many batches it waited for, batch by batch.

        Args:
            depth: jobs in the line before each claim; the last ones are left in it.
        """
        self._submit(depth)
        while self._left:
            call = self._calls.claim(
                self._lane.slot, batch=new_uid(), token="bench", worker="bench", lease_ms=10**7
            )
            uids = self._runner.run(call).uids
            self._claims += 1
            known = [self._known.pop(uid) for uid in uids]
            yield [(length, self._claims - since) for length, since in known]
            self._submit(len(uids))


def padding(batches: Sequence[Sequence[int]]) -> float:
    """Bytes of padding for each real one."""
    real = sum(map(sum, batches))
    return sum(len(batch) * max(batch) for batch in batches) / real - 1


def row(client: redis.Redis, lengths: Sequence[int], depth: int, policy: BatchPolicy) -> str:
    """One line of the table."""
    batches = list(Line(client, policy, lengths).batches(depth))
    waste = padding([[length for length, _ in batch] for batch in batches])
    waits = np.percentile([wait for batch in batches for _, wait in batch], (50, 99, 100))
    size = sum(map(len, batches)) / len(batches)
    cost = f"{policy.max_batch_cost:,}" if policy.max_batch_cost else "-"
    return f"{depth:6,}{policy.look_ahead:12}{cost:>16}{size:7.1f}{waste:9.0%}" + "".join(
        f"{wait:6.0f}" for wait in waits
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Padding and waiting, by how far is looked ahead.")
    parser.add_argument("--texts", type=int, default=12_000, help="sentences")
    texts = random.Random(SEED).sample(sentences(), parser.parse_args().texts)
    lengths = [len(text.encode()) for text in texts]
    print(f"{len(lengths):,} sentences; all sorted: {padding(_cut(sorted(lengths))):.0%} padding")
    print(" depth  look_ahead  max_batch_cost   jobs  padding  batches waited: p50, p99, most")
    policy = BatchPolicy(max_batch_size=BATCH, max_queue=10**6)
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis.start(Path(folder)) as server:
        client = connect(server.url)
        for depth in DEPTHS:
            for ahead in AHEAD:
                if ahead * BATCH <= depth:
                    ahead_by = policy.model_copy(update={"look_ahead": ahead})
                    print(row(client, lengths, depth, ahead_by), flush=True)
            bounded = policy.model_copy(update={"max_batch_cost": COST})
            print(row(client, lengths, depth, bounded), flush=True)


def _cut(lengths: Sequence[int]) -> list[Sequence[int]]:
    return [lengths[at : at + BATCH] for at in range(0, len(lengths), BATCH)]


if __name__ == "__main__":
    main()
