"""What contestants and models are called, in figures, tables and pictures."""

from __future__ import annotations

from typing import Final

#: Processes that hand in jobs side by side.
PRODUCERS: Final = 3

RAW: Final = "raw torch"
CELERY: Final = "plain Celery"
BATCHES: Final = "celery-batches"
MOSEC: Final = "mosec"
LITSERVE: Final = "LitServe"
BULK: Final = "umbel, bulk"
ASYNC: Final = "umbel, single, asyncio"
THREADS: Final = "umbel, single, threads"
SEVERAL: Final = f"umbel, bulk, {PRODUCERS} producers"

PEERS: Final = (CELERY, BATCHES, LITSERVE, MOSEC)
WAYS: Final = (BULK, ASYNC, THREADS, SEVERAL)
#: In the order of tables and pictures.
EVERYBODY: Final = (*PEERS, *WAYS, RAW)
#: What everybody is asked for.
MODELS: Final = ("tiny", "mid")
