"""A client process: submits rows piece by piece and prints the number and id of each accepted job.

Usage: python -m faults.producer MODEL FIRST COUNT PAUSE_MS

It ends when all rows are submitted, or when its standard input is closed.
"""

from __future__ import annotations

import select
import sys

from faults.rows import rows_of
from umbel import Client

_CHUNK = 16


def main(model: str, first: str, count: str, pause_ms: str) -> None:
    """Submits ``count`` rows from number ``first`` on, and waits for nothing."""
    start, end = int(first), int(first) + int(count)
    with Client() as client:
        for at in range(start, end, _CHUNK):
            numbers = range(at, min(at + _CHUNK, end))
            jobs = client.submit_many(model, rows_of(numbers))
            lines = [f"{number} {job.id}" for number, job in zip(numbers, jobs, strict=True)]
            print("\n".join(lines), flush=True)
            if select.select([sys.stdin], [], [], int(pause_ms) / 1000)[0]:
                return


if __name__ == "__main__":
    main(*sys.argv[1:])
