"""Finding the jobs of a batch that make it fail, and the largest batch that fits into memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from umbel_batching.record import Failure
from umbel_registry.loading import WrongRowCount
from umbel_worker.memory import empty_cache, let_go, ran_out

log = logging.getLogger("umbel.worker")

#: What becomes of one job: its encoded output, or why it failed.
Result = bytes | Failure
_LONGEST_MESSAGE = 2_000


class SpoiltBatch(Exception):
    """No row of a batch came out usable, though the model did not raise."""


@dataclass(frozen=True, slots=True)
class _Trouble:
    """Why a range of jobs has no results.

    Attributes:
        failure: the outcome of a job that is alone in its range.
        memory: whether memory ran out, told by type.
        missing: rows that were not returned, below 0 for too many; ``None``: not what happened.
        plain: whether the model raised something that says nothing of its cause.
    """

    failure: Failure
    memory: bool = False
    missing: int | None = None
    plain: bool = False


class Isolation:
    """Runs a range of jobs, in halves where the whole raises: O(k log n) runs for k guilty jobs.

    Afterwards it knows what fits into memory. A range was too large if memory ran out, by type, and
    none of its jobs runs out of memory alone; or if it raised anything else, each of its halves
    then went through whole, and it raised again. A guilty job cannot look like that: it makes one
    half raise. Nor does an error that comes and goes.

    Args:
        run: computes the jobs from a first to one past a last; may raise what the model raises.
        model: its name and version, for messages.

    Attributes:
        fits: jobs of the largest range that went through whole.
        too_large: whether a range failed for its size alone.
    """

    def __init__(self, run: Callable[[int, int], Sequence[Result]], model: str) -> None:
        self._run, self._model = run, model
        self._greedy: list[int] = []
        self.fits, self.too_large = 0, False

    def solve(self, start: int, end: int) -> list[Result]:
        """The results of the jobs ``start`` to ``end``, one each.

        Args:
            start: first job.
            end: one past the last job.
        """
        outcome = self._attempt(start, end)
        return self._halve(start, end, outcome) if isinstance(outcome, _Trouble) else outcome

    def _halve(self, start: int, end: int, whole: _Trouble) -> list[Result]:
        """The results of a range that failed as a whole."""
        if end - start == 1:
            log.warning("a job failed in the model: %s", whole.failure.kind)
            if whole.memory:
                self._greedy.append(start)
            return [whole.failure]
        log.info("a batch of %d raised %s; running halves", end - start, whole.failure.kind)
        middle = (start + end) // 2
        parts = (start, middle), (middle, end)
        halves = [self._attempt(*part) for part in parts]
        if _blames_the_model(end - start, whole, halves):
            log.error("a batch failed as a whole: %s", whole.failure.message)
            return [whole.failure] * (end - start)
        results: list[Result] = []
        for part, half in zip(parts, halves, strict=True):
            results += self._halve(*part, half) if isinstance(half, _Trouble) else half
        self._learn(start, end, whole, halves)
        return results

    def _attempt(self, start: int, end: int) -> list[Result] | _Trouble:
        try:
            results = list(self._run(start, end))
        except (Exception, SystemExit) as error:
            if ends_the_process(error):
                raise
            trouble = self._trouble(error)
            let_go(error)
        else:
            self.fits = max(self.fits, end - start)
            return results
        if trouble.memory:
            empty_cache()
        return trouble

    def _trouble(self, error: BaseException) -> _Trouble:
        if isinstance(error, WrongRowCount):
            failure = Failure(type(error).__name__, _wrong_rows(error, self._model))
            return _Trouble(failure, missing=error.expected - error.got)
        failure = failure_of(error)
        if ran_out(error):
            return _Trouble(Failure(failure.kind, _no_memory(failure, self._model)), memory=True)
        return _Trouble(failure, plain=not isinstance(error, SpoiltBatch))

    def _learn(
        self, start: int, end: int, whole: _Trouble, halves: Sequence[list[Result] | _Trouble]
    ) -> None:
        if whole.memory:
            large = not any(start <= place < end for place in self._greedy)
        else:
            large = (
                whole.plain
                and not self.too_large
                and not any(isinstance(half, _Trouble) for half in halves)
                and isinstance(self._attempt(start, end), _Trouble)
            )
        self.too_large = self.too_large or large


def _blames_the_model(
    size: int, whole: _Trouble, halves: Sequence[list[Result] | _Trouble]
) -> bool:
    """Whether a wrong number of rows is the model's doing, whatever it is given.

    It is if both halves are wrong too, unless rows are missing and those of the halves add up to
    those of the whole: then some jobs lost theirs, and the others may have their outputs.
    """
    missing = [half.missing for half in halves if isinstance(half, _Trouble)]
    known = [lack for lack in missing if lack is not None]
    if whole.missing is None or len(known) < len(halves):
        return False
    return not (0 < whole.missing < size and sum(known) == whole.missing)


def ends_the_process(error: BaseException) -> bool:
    """Whether the pool is ending this process: billiard raises it anywhere, with a code below 0.

    Args:
        error: whatever was caught.
    """
    return isinstance(error, SystemExit) and isinstance(error.code, int) and error.code < 0


def failure_of(error: BaseException) -> Failure:
    """The outcome of a job whose computation raised ``error``."""
    try:
        message = str(error)[:_LONGEST_MESSAGE]
    except Exception:  # noqa: BLE001  (a model's error class may be broken too)
        message = "It cannot be shown what it says."
    return Failure(type(error).__name__, message.encode(errors="replace").decode())


def _wrong_rows(error: WrongRowCount, model: str) -> str:
    rule = "Each input row must give exactly one output row, in the same order."
    if error.expected == 1:
        return f"{model} returned {error.got} rows for this input alone. {rule}"
    return (
        f"{model} returned {error.got} rows for a batch of {error.expected}: a fault of the model, "
        f"not of this input. {rule}"
    )


def _no_memory(failure: Failure, model: str) -> str:
    return (
        f"This input alone does not fit into the memory that is left for {model}. Send a smaller "
        f"one, or run the model where there is more memory. {failure.message}"
    )[:_LONGEST_MESSAGE]
