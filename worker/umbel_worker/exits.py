"""How a process ended, in words that are kept as evidence."""

from __future__ import annotations

import signal


def how_it_ended(code: int | None) -> str:
    """Words for an exit code: ``killed by SIGSEGV``, ``ended by itself with exit code 7``.

    Args:
        code: as ``subprocess`` gives it: below 0 for a signal; ``None`` where nobody knows it.
    """
    if code is None:
        return "ended in an unknown way"
    if code >= 0:
        return f"ended by itself with exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
