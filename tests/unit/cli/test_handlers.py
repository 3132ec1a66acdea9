"""Signals that arrive at the worst moment."""

from __future__ import annotations

import os
import signal
from typing import Any

from umbel_cli.up import signals


def test_a_signal_while_the_event_is_locked_does_not_hang(wait_until: Any) -> None:
    with signals() as (stop, hurry):
        with stop._cond:  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGTERM)
        wait_until(stop.is_set, "the first signal")
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until(hurry.is_set, "the second signal")
