"""Plain Celery, what most people have today: one task, and one forward, per row.

Usage: celery -A suite.contestants.plain_celery worker; python -m suite.contestants.plain_celery
"""

from __future__ import annotations

import numpy as np
import torch

from suite.contestants.celery_common import Tasks, make_app
from suite.driver import serve
from suite.networks import forward

app = make_app("plain")
torch.set_num_threads(1)


@app.task(name="plain.predict")  # type: ignore[untyped-decorator]
def predict(model: str, row: list[float]) -> list[float]:
    """Runs one row."""
    answer: list[float] = forward(model, np.asarray([row], dtype=np.float32))[0].tolist()
    return answer


if __name__ == "__main__":
    serve(Tasks(predict))
