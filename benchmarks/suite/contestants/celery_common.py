"""What both kinds of Celery workers share, and how their tasks are sent and fetched."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from celery import Celery
from numpy.typing import NDArray

from suite.driver import Driver

#: Names the Redis that is broker and result backend, in kombu's spelling.
URL = "BENCH_CELERY_URL"
PATIENCE_S = 120


def make_app(name: str) -> Celery:
    """An app whose keys and queue no other contestant sees.

    Args:
        name: of it, its queue, and the beginning of its keys.
    """
    app = Celery(name, broker=os.environ[URL], backend=os.environ[URL])
    app.conf.update(
        accept_content=["json"],
        broker_connection_max_retries=3,
        broker_transport_options={"global_keyprefix": f"{name}:"},
        result_backend_transport_options={"global_keyprefix": f"{name}:"},
        result_expires=600,
        task_default_queue=name,
        task_serializer="json",
        worker_prefetch_multiplier=64,
    )
    return app


class Tasks(Driver):
    """Sends a task for each row, and then fetches the results.

    Args:
        task: of Celery; takes the name of a model and a row.
    """

    def __init__(self, task: Any) -> None:
        self._task = task

    def many(self, model: str, rows: Any) -> NDArray[Any]:
        """All rows, a task each."""
        results = [self._task.delay(model, row.tolist()) for row in rows]
        # In their order: Celery 5.6 often waits a second for one that it has received already if
        # they are asked for from the last one on; `join_native` ends with such a pause, too.
        answers = [result.get(timeout=PATIENCE_S) for result in results]
        return np.asarray(answers, dtype=np.float32)

    def one(self, model: str, row: Any) -> NDArray[Any]:
        """One row."""
        answer = self._task.delay(model, row.tolist()).get(timeout=PATIENCE_S)
        return np.asarray(answer, dtype=np.float32)
