"""A lane of a million jobs beside one of ten thousand: memory of each job, submit and claim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from depth import SHORT, Line, push_tiny, rates, settle_down
from models import inputs

from suite.pace import Pace
from suite.results import Depth
from umbel_batching import wire
from umbel_batching.calls import Calls
from umbel_batching.scripts import Runner
from umbel_config.connect import connect
from umbel_config.embedded import EmbeddedRedis
from umbel_config.settings import load_settings


def depth(folder: Path, pace: Pace) -> Depth:
    """Fills both lanes and compares them, on a Redis of their own.

    Args:
        folder: for its data.
        pace: how deep, and how many rounds.
    """
    with EmbeddedRedis.start(folder) as server:
        settings = load_settings(redis_url=server.url, state_dir=folder)
        with connect(settings) as client:
            push_tiny(settings, client, folder / "models")
            runner, calls = Runner(client), Calls.of(settings)
            short, deep = (Line(runner, calls, version) for version in ("1", "2"))
            short.fill(SHORT)
            before: Any = client.info("memory")
            deep.fill(pace.deep)
            after: Any = client.info("memory")
            settle_down(client)
            submits, claims = rates((short, deep), pace.turns)
    payload = len(next(iter(wire.split(inputs("tiny", 1)))))
    return Depth(
        short=SHORT,
        deep=pace.deep,
        bytes_each=(after["used_memory"] - before["used_memory"]) / pace.deep,
        payload=payload,
        submit=submits,
        claim=claims,
    )
