"""Telling that memory ran out, and giving back what a failed batch still holds."""

from __future__ import annotations

import traceback
from collections.abc import Iterator

import torch

_TYPED = (torch.OutOfMemoryError, MemoryError)


def ran_out(error: BaseException) -> bool:
    """Whether an error says by its type, or by that of its cause, that memory ran out.

    Torch's allocator on a CPU raises a plain ``RuntimeError``, which this does not recognise: what
    a text says may change. ``isolate`` finds that case by what happens with smaller batches.

    Args:
        error: whatever a model raised.
    """
    return any(isinstance(each, _TYPED) for each in _chain(error))


def let_go(error: BaseException) -> None:
    """Drops what the frames of an error hold: the tensors of the batch that failed.

    Args:
        error: caught, and not raised again.
    """
    for each in _chain(error):
        traceback.clear_frames(each.__traceback__)


def empty_cache() -> None:
    """Gives unused memory of the GPU back to it, so that a smaller batch finds it in one piece."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__
