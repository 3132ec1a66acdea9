"""The example of the README runs as it stands."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from umbel_batching import calls, lanes, policy, record, scripts, wire
from umbel_batching import flusher as flusher_module
from umbel_batching.flusher import Drain
from umbel_config.connect import connect

if TYPE_CHECKING:
    from tests.conftest import WaitUntil

README = Path(__file__).parents[3] / "batching" / "README.md"


def test_the_example_of_the_readme_runs(
    redis_url: str, namespace: str, wait_until: WaitUntil
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    drains: list[Drain] = []
    names: dict[str, Any] = {}
    for module in (calls, lanes, policy, record, scripts, flusher_module):
        names |= vars(module)
    given = {"url": redis_url, "pixels": np.arange(3.0), "run": np.sum, "dispatch": drains.append}
    names |= given | {"connect": connect, "threading": threading, "wire": wire}
    exec(example.replace('"umbel"', f'"{namespace}"'), names)
    try:
        wait_until(lambda: drains, "the flusher wakes a worker")
        names["work"](drains[0])
        lane, uid = names["lane"], names["job"].uid
        (raw,) = names["runner"].run(names["calls"].outcomes(lane.slot, [uid]))
        assert wire.decode(record.parse(raw).body) == 3.0
    finally:
        names["flusher"].stop()
