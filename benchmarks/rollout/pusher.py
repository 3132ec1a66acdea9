"""A process that pushes a model folder when it is told to, with torch loaded beforehand.

Usage: python -m rollout.pusher FOLDER

In life a push comes from another machine. Here it has to share this one, so it is as modest as can
be: the lowest priority, one thread. It begins when its standard input is closed.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import torch

from rollout.protocol import PUSHED, READY
from umbel_config.connect import connect
from umbel_config.settings import load_settings
from umbel_registry import ArtifactStore, Catalog, push

_LOWEST = 19
_SESSION = Path("/proc/self/autogroup")


def main(folder: str) -> None:
    """Pushes the folder once standard input is closed."""
    _step_back()
    torch.set_num_threads(1)
    settings = load_settings()
    with connect(settings) as client:
        catalog = Catalog(client, settings.namespace)
        store = ArtifactStore(settings.artifacts)
        print(READY, flush=True)
        sys.stdin.read()
        push(Path(folder), catalog=catalog, store=store)
        print(PUSHED, flush=True)


def _step_back() -> None:
    """Takes the lowest priority, for the session too: Linux may weigh sessions, not processes."""
    os.nice(_LOWEST)
    if _SESSION.exists():
        with suppress(OSError):
            _SESSION.write_text(str(_LOWEST))


if __name__ == "__main__":
    main(*sys.argv[1:])
