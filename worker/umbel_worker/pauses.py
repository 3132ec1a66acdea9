"""Keeps the pauses of batches short while, beside them, models are loaded and unloaded."""

from __future__ import annotations

import gc
import sys
import threading
from contextlib import suppress
from importlib import import_module
from types import TracebackType
from typing import Final

#: Seconds after which a thread hands the interpreter to another that asks for it. A batch asks a
#: dozen times, and beside a load waits so long each time; Python's own 5 ms add up to 50 ms.
TURN_S: Final = 0.0002


class ShortTurns:
    """While any thread is inside, all threads of the process take turns more often.

    It costs those that compute in Python a little speed, so it is not for good.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = 0.0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._before = sys.getswitchinterval()
                sys.setswitchinterval(min(TURN_S, self._before))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                sys.setswitchinterval(self._before)


#: Of this process.
short_turns = ShortTurns()
#: Torch imports it with the first exported program that it loads: 30,000 objects, another 25 ms.
_LATE = "torch.export._trace"


def spare_what_stays() -> None:
    """Has the garbage collector never look again at what there is by now.

    Torch alone makes 300,000 objects that stay for good. Looking at them takes 0.2 s, in which the
    whole process stands still, and that happens whenever a model is unloaded, since models are
    held by circles. To be called before the first one is loaded: it would stay for good too.
    """
    with suppress(ImportError):  # of a release of torch that has no such module
        import_module(_LATE)
    gc.collect()
    gc.freeze()
