"""``umbel demo`` on a fresh folder: it reads digits, and leaves nothing running."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest

from umbel_config.embedded import attach


@pytest.mark.slow
def test_demo(own: Any, is_alive: Any) -> None:
    out, err = own.run("demo", "--rounds", "4")
    assert err == ""
    accuracy = re.search(r"accuracy ([\d.]+)%: (\d+) of 360", out)
    assert accuracy, out
    assert float(accuracy[1]) >= 95
    assert re.search(r"jobs, each submitted alone +1,440 +360\n", out)
    assert "read 7" in out
    assert "umbel submit digits --example" in out
    assert re.search(r"umbel job [a-z0-9]{8}-[0-9a-f]{32} ", out)
    state = Path(own.variables["UMBEL_STATE_DIR"])
    assert attach(state) is None
    redis = re.search(r"embedded, pid (\d+)", out)
    assert redis
    assert not is_alive(int(redis[1]))
    names = [(each["name"], each["version"]) for each in own.json("models", "list")]
    assert names == [("digits", "1"), ("digits-one-by-one", "1")]
    assert len(own.json("models", "show", "digits")["examples"]) == 2


def test_demo_that_is_interrupted_leaves_nothing_running(own: Any, wait_until: Any) -> None:
    state = Path(own.variables["UMBEL_STATE_DIR"])
    with own.running("demo") as demo:
        wait_until(lambda: attach(state), "the demo's Redis", 60)
        demo.send(signal.SIGINT)
        assert demo.wait() != 0
    assert attach(state) is None
    assert "Traceback" not in demo.text
