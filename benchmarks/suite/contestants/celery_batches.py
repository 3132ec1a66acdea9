"""celery-batches: tasks are gathered in the memory of one worker.

Usage: celery -A suite.contestants.celery_batches worker; python -m suite.contestants.celery_batches
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from celery_batches import Batches

from suite.contestants.celery_common import Tasks, make_app
from suite.driver import serve
from suite.networks import BATCH, WAIT_MS, forward

app = make_app("batches")
torch.set_num_threads(1)


@app.task(  # type: ignore[untyped-decorator]
    base=Batches, name="batches.predict", flush_every=BATCH, flush_interval=WAIT_MS / 1000
)
def predict(requests: list[Any]) -> None:
    """Runs the rows that were gathered, those of each model together."""
    by_model: dict[str, list[Any]] = {}
    for request in requests:
        by_model.setdefault(request.args[0], []).append(request)
    for model, group in by_model.items():
        rows = np.asarray([request.args[1] for request in group], dtype=np.float32)
        for request, answer in zip(group, forward(model, rows).tolist(), strict=True):
            app.backend.mark_as_done(request.id, answer, request=request)


if __name__ == "__main__":
    serve(Tasks(predict))
