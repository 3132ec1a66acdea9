"""Signal handlers that are safe whatever the main thread is doing."""

from __future__ import annotations

import threading
from collections.abc import Callable


def from_handler(call: Callable[[], object]) -> None:
    """Calls a function from a signal handler, in a thread of its own.

    A handler interrupts the main thread anywhere, also while it holds the lock of an event that it
    waits for; setting that event right there would wait for the lock for ever.

    Args:
        call: sets an event, or does something else that takes a lock.
    """
    threading.Thread(target=call, name="umbel-signal", daemon=True).start()
