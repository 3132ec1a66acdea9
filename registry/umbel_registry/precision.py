"""With how many digits a model computes, which its outputs alone do not tell."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from umbel_config.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_COARSE = (torch.float16, torch.bfloat16)


@contextmanager
def without_tf32() -> Iterator[None]:
    """A block in which a GPU runs convolutions of float32 in full precision.

    By itself it may run those of one batch size in TF32, with 10 bits of mantissa, and those of
    another in float32: that looks like rows which depend on each other.
    """
    own = torch.backends.cudnn
    with own.flags(own.enabled, own.benchmark, deterministic=own.deterministic, allow_tf32=False):
        yield


def computes_coarsely(run: Callable[[], object]) -> bool:
    """Whether a step of a computation gives half precision, whatever its end is stored as.

    Args:
        run: the computation. One that cannot be watched counts as not coarse.
    """
    watch = _Watch()
    try:
        with watch:
            run()
    except ModelError:
        return False
    return watch.coarse


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Looks at the result of each operator: with autocast, weights do not tell."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.coarse = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            self.coarse |= getattr(value, "dtype", None) in _COARSE
        return out
