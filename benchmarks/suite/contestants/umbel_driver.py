"""umbel as its users call it: in bulk, by many coroutines, by many threads; and in an open loop.

Usage: python -m suite.contestants.umbel_driver map|async|threads

Connections are made, and one job is answered, before the clock runs.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suite.driver import Driver, serve
from suite.open_loop import Generator
from umbel import AsyncClient, Client

#: Jobs under way at once, of each way to submit single jobs.
COROUTINES, THREADS = 512, 32
PATIENCE_S = 60.0


class Bulk(Driver):
    """``Client.map``; one job at a time by ``Client.submit``."""

    def __init__(self) -> None:
        self._client = Client()

    def rows(self, model: str, count: int) -> Any:
        """Rows of numbers; sentences of the model `minilm`."""
        if model == "minilm":
            from suite.sentences import some  # noqa: PLC0415

            return some(count)
        return super().rows(model.partition("-")[0], count)

    def ready(self, model: str) -> None:
        """Has the client connected and its listener up."""
        self.one(model, self.rows(model, 1)[0])

    def many(self, model: str, rows: Any) -> NDArray[Any]:
        """All rows in bulk."""
        return np.stack(list(self._client.map(model, rows)))

    def one(self, model: str, row: Any) -> NDArray[Any]:
        """One job."""
        answer: NDArray[Any] = self._client.submit(model, row).result(timeout=PATIENCE_S)
        return answer


class Threads(Bulk):
    """Single jobs by many threads that share a client."""

    def __init__(self) -> None:
        super().__init__()
        self._pool = ThreadPoolExecutor(THREADS)

    def many(self, model: str, rows: Any) -> NDArray[Any]:
        """All rows, each by a thread that waits for it."""
        todo = iter(range(len(rows)))
        answers: list[Any] = [None] * len(rows)

        def work(_: int) -> None:
            for place in todo:  # a range iterator hands each place to one thread only
                answers[place] = self.one(model, rows[place])

        list(self._pool.map(work, range(THREADS)))
        return np.stack(answers)


class Coroutines(Bulk):
    """Single jobs by many coroutines that share a client."""

    def __init__(self) -> None:
        self._loop = asyncio.Runner()
        self._client: Any = self._loop.run(self._connected())

    async def _connected(self) -> AsyncClient:
        return AsyncClient()

    def many(self, model: str, rows: Any) -> NDArray[Any]:
        """All rows, each by a coroutine that waits for it."""
        return self._loop.run(self._many(model, rows))

    def one(self, model: str, row: Any) -> NDArray[Any]:
        """One job."""
        return self._loop.run(self._one(model, row))

    def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        """Also knows ``arrivals``: see ``open_loop``."""
        if "arrivals" not in order:
            return super().obey(order)
        model, offsets = order["model"], np.load(order["arrivals"])
        rows = self.rows(model, order["count"])
        self.ready(model)
        generator = Generator(lambda place: self._one(model, rows[place % len(rows)]))
        seen = self._loop.run(generator.run(offsets))
        seen.save(Path(order["file"]))
        return {}

    async def _one(self, model: str, row: Any) -> NDArray[Any]:
        job = await self._client.submit(model, row)
        answer: NDArray[Any] = await job.result(timeout=PATIENCE_S)
        return answer

    async def _many(self, model: str, rows: Any) -> NDArray[Any]:
        answers: list[Any] = [None] * len(rows)
        todo = iter(range(len(rows)))

        async def work(places: Iterator[int]) -> None:
            for place in places:
                answers[place] = await self._one(model, rows[place])

        async with asyncio.TaskGroup() as tasks:
            for _ in range(COROUTINES):
                tasks.create_task(work(todo))
        return np.stack(answers)


WAYS: dict[str, type[Bulk]] = {"map": Bulk, "async": Coroutines, "threads": Threads}

if __name__ == "__main__":
    serve(WAYS[sys.argv[1]]())
