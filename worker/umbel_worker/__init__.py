"""The worker: Celery app, the infer task, model runtime and lease keeping."""

from __future__ import annotations

import os

# Read by OpenMP when torch is loaded. Threads that spin while they wait fight with Redis, the
# client and each other for the cores: on a busy machine of two, a small model ran 200 times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
