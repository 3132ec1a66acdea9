"""A process that submits one job after the other at fixed times, and notes what comes of each.

Usage: python -m rollout.submitter PER_S MOST_S FILE

The load is an open loop: job n is due ``n / PER_S`` seconds after the first, whether earlier ones
are answered or not, and its latency counts from that moment. So a stall is felt by all jobs that
were due in it. The last job is due when standard input is closed, or after ``MOST_S``.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from pathlib import Path
from typing import Any

from rollout.jobs import Fate, Jobs
from rollout.protocol import BEGUN
from rollout.versions import MODEL, rows
from umbel import AsyncClient
from umbel_batching.census import JobInfo
from umbel_config.errors import JobError, UmbelError

#: A job without a result after so long is lost, s.
PATIENCE_S = 30.0
#: Stories of jobs that are read at once, when all are over.
_AT_ONCE = 64


class Submitter:
    """Submits, waits and notes.

    Args:
        client: of the store.
        per_s: jobs per second.
        most_s: seconds after which it ends by itself.
    """

    def __init__(self, client: AsyncClient, per_s: float, most_s: float) -> None:
        self._client, self._per_s = client, per_s
        self.jobs = Jobs.empty(round(per_s * most_s))
        self._rows = rows()
        self._ended = threading.Event()

    def end(self) -> None:
        """No further job is due."""
        self._ended.set()

    async def run(self) -> Jobs:
        """Submits until it is ended; returns all jobs, whatever became of them."""
        begin, number = time.monotonic() + 0.1, 0
        async with asyncio.TaskGroup() as tasks:
            while number < len(self.jobs) and not self._ended.is_set():
                due = begin + number / self._per_s
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                self.jobs.due[number] = due
                tasks.create_task(self._one(number))
                number += 1
        jobs = self.jobs.first(number)
        await self._read_stories(jobs)
        return jobs

    async def _one(self, number: int) -> None:
        jobs, fate = self.jobs, Fate.REFUSED
        try:
            job = await self._client.submit(MODEL, self._rows[number % len(self._rows)])
            jobs.ids[number], fate = job.id.encode(), Fate.LOST
            jobs.outputs[number] = await job.result(timeout=PATIENCE_S)
            jobs.done[number] = time.monotonic()
            fate = Fate.ANSWERED
        except TimeoutError:
            pass
        except JobError:
            fate = Fate.FAILED
        except UmbelError as error:
            print(f"job {number}: {type(error).__name__}: {error}", file=sys.stderr)
        finally:
            jobs.fates[number] = fate

    async def _read_stories(self, jobs: Jobs) -> None:
        """Which version ran each job, by what the store keeps of it."""
        for at in range(0, len(jobs), _AT_ONCE):
            places = [p for p in range(at, min(at + _AT_ONCE, len(jobs))) if jobs.ids[p]]
            handles = [self._client.job(jobs.ids[place].decode()) for place in places]
            infos = (handle.info() for handle in handles)
            found = await asyncio.gather(*infos, return_exceptions=True)
            for place, info in zip(places, found, strict=True):
                if isinstance(info, JobInfo):  # else it is gone
                    jobs.versions[place] = int(info.version)


async def _main(per_s: float, most_s: float, file: Path) -> None:
    async with AsyncClient() as client:
        submitter = Submitter(client, per_s, most_s)
        threading.Thread(target=_follow, args=[submitter.end], daemon=True).start()
        # So that no connection is made, and no module loaded, while somebody counts.
        await (await client.submit(MODEL, rows()[0])).result(timeout=PATIENCE_S)
        gc.collect()
        gc.freeze()
        print(BEGUN, flush=True)
        jobs = await submitter.run()
    jobs.save(file)


def _follow(end: Any) -> None:
    sys.stdin.read()
    end()


if __name__ == "__main__":
    asyncio.run(_main(float(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])))
