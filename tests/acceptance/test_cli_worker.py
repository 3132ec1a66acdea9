"""``umbel worker`` with each pool, with real models, stopped as an operator stops it."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from typing import Any

import pytest


@pytest.mark.parametrize(("pool", "workers"), [("threads", 2), ("prefork", 1)])
def test_workers_compute_and_stop_warm(
    pool: str, workers: int, shared: Any, push_model: Any, wait_until: Any
) -> None:
    push_model(shared)
    words = ("worker", "--pool", pool, "--concurrency", "2")
    with ExitStack() as stack:
        running = [stack.enter_context(shared.running(*words)) for _ in range(workers)]
        wait_until(lambda: all("ready." in each.text for each in running), "workers ready", 60)
        told = shared.json("submit", "sum", "[1, 2, 3, 4]")
        assert told["result"] == [10.0, 10.0]
        assert (told["attempts"], told["batch_size"]) == (1, 1)
        pids = [str(each.process.pid) for each in running]
        assert (told["worker"].rpartition(":")[2] in pids) == (pool == "threads")
        (lane,) = shared.json("lanes")
        assert (lane["slots"], lane["succeeded"]) == (2 * workers, 1)
        for each in running:
            each.send(signal.SIGTERM)
        assert [each.wait() for each in running] == [0] * workers
    text = "\n".join(each.text for each in running)
    assert "loaded sum@1 on" in text
    assert "Traceback" not in text
    assert shared.json("lanes")[0]["slots"] == 0
