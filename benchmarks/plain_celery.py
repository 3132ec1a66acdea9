"""The contestant that most people have today: one Celery task, and one forward, per prediction."""

from __future__ import annotations

import os
from functools import cache

import numpy as np
import torch
from celery import Celery
from models import build, forward

URL = os.environ["BENCH_REDIS_URL"]

app = Celery("plain_celery", broker=URL, backend=URL)
app.conf.update(
    broker_transport_options={"global_keyprefix": "bench:"},
    task_default_queue="plain",
    worker_prefetch_multiplier=64,
    task_serializer="json",
    accept_content=["json"],
)


@cache
def _model(name: str) -> torch.nn.Module:
    torch.set_num_threads(1)
    return build(name)


@app.task(name="plain.predict")  # type: ignore[untyped-decorator]
def predict(name: str, row: list[float]) -> list[float]:
    """Runs one row."""
    output: list[float] = forward(_model(name), np.asarray([row], dtype=np.float32))[0].tolist()
    return output
