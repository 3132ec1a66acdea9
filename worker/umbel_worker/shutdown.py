"""The one flag that tells every drain of this process to end with the batch it is at."""

from __future__ import annotations

import threading

#: Set when the worker shuts down.
stopping = threading.Event()
