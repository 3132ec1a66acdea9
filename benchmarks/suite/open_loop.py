"""A load that does not wait for answers: when each request is due is fixed before it begins.

A loop that sends the next request when the last one is answered asks less the slower the answers
are, and never sees the queue that real users would stand in (coordinated omission). Here latency
counts from the moment a request was due, however late it could be sent; and how late that was is
noted too, because a load generator that cannot keep up measures itself.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from suite.arrivals import Times

#: Seconds between the order and the first request.
_LEAD_S = 0.1
Ask = Callable[[int], Awaitable[NDArray[Any]]]


@dataclass(frozen=True, slots=True)
class Seen:
    """One entry for each request, in the order in which they were due.

    Attributes:
        due: seconds from the beginning.
        sent: the same; when its coroutine began.
        done: the same; NaN without an answer.
        answers: what came; NaN without.
    """

    due: Times
    sent: Times
    done: Times
    answers: NDArray[np.float32]

    @property
    def latency_ms(self) -> Times:
        """From due to done; NaN without an answer."""
        return (self.done - self.due) * 1000

    @property
    def late_ms(self) -> Times:
        """From due to sent: what the generator itself is behind."""
        return (self.sent - self.due) * 1000

    def save(self, file: Path) -> None:
        """Writes all of it.

        Args:
            file: an ``.npz``.
        """
        np.savez(file, **{each.name: getattr(self, each.name) for each in fields(self)})

    @classmethod
    def load(cls, file: Path) -> Self:
        """Reads what ``save`` wrote.

        Args:
            file: an ``.npz``.
        """
        with np.load(file, allow_pickle=False) as found:
            return cls(**{each.name: found[each.name] for each in fields(cls)})


class Generator:
    """Asks at fixed times.

    Args:
        ask: answers the request of a number; an exception means that it has no answer.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._errors: dict[str, int] = {}

    @property
    def errors(self) -> dict[str, int]:
        """How many requests had no answer, by the name of the exception."""
        return dict(self._errors)

    async def run(self, due: Times) -> Seen:
        """Sends every request when it is due, or at once when that is past; waits for all.

        Args:
            due: seconds from the beginning, in order.
        """
        sent, done = np.full(len(due), np.nan), np.full(len(due), np.nan)
        answers: list[Any] = [None] * len(due)
        gc.collect()
        gc.freeze()
        begin = time.monotonic() + _LEAD_S

        async def one(place: int) -> None:
            sent[place] = time.monotonic() - begin
            try:
                answers[place] = await self._ask(place)
                done[place] = time.monotonic() - begin
            except Exception as error:  # noqa: BLE001  (whatever it is: there is no answer)
                name = type(error).__name__
                self._errors[name] = self._errors.get(name, 0) + 1

        async with asyncio.TaskGroup() as tasks:
            for place, offset in enumerate(due.tolist()):
                # Even without a pause others have their turn: a backlog must not starve answers.
                await asyncio.sleep(max(0.0, begin + offset - time.monotonic()))
                tasks.create_task(one(place))
        gc.unfreeze()
        return Seen(due, sent, done, _filled(answers))


def _filled(answers: list[Any]) -> NDArray[np.float32]:
    known = next((answer for answer in answers if answer is not None), np.zeros(1))
    nothing = np.full(known.shape, np.nan, np.float32)
    made = [nothing if answer is None else answer for answer in answers]
    return np.asarray(made, dtype=np.float32).reshape(len(answers), *known.shape)
