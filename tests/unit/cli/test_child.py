"""A member of the stack: heard, started again when it dies, ended for sure."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from umbel_cli.child import Child

Lines = list[tuple[str, str]]


def said(lines: Lines, words: str) -> Any:
    return lambda: any(words in line for _, line in lines)


def test_a_child_that_dies_is_started_again_later_each_time(
    wait_until: Any, tmp_path: Path
) -> None:
    lines: Lines = []
    variables = {"UMBEL_STATE_DIR": str(tmp_path)}  # no Redis there: a flusher ends at once
    deaths: list[tuple[int, str]] = []
    child = Child(
        "flusher",
        ("flusher",),
        variables,
        lambda *line: lines.append(line),
        lambda *death: deaths.append(death),
    )
    child.start()
    first = child.pid

    def tended(words: str) -> bool:
        child.tend()
        return bool(said(lines, words)())

    try:
        wait_until(lambda: tended("ended by itself with exit code 1; starting it again in 1 s"), "")
        wait_until(lambda: tended("starting it again in 2 s"), "second death")
    finally:
        child.end()
    assert deaths[0] == (first, "ended by itself with exit code 1")
    assert len(deaths) == 2, "each death is told once"
    assert ("flusher", lines[0][1]) == lines[0]
    assert any(line.startswith("error: No Redis to talk to") for _, line in lines)


def test_a_child_ends_with_its_stack(wait_until: Any, redis_url: str, namespace: str) -> None:
    lines: Lines = []
    variables = {"UMBEL_REDIS_URL": redis_url, "UMBEL_NAMESPACE": namespace}
    child = Child("flusher", ("flusher",), variables, lambda *line: lines.append(line))
    child.start()
    wait_until(said(lines, "watching the lanes"), "flusher at work")
    assert child.alive()
    assert child.pid is not None
    assert os.getsid(child.pid) == child.pid
    child.ask_to_stop()
    wait_until(lambda: not child.alive(), "flusher gone")
    child.end()
    assert said(lines, "stopped")()
    assert child.pid is None


def test_a_child_that_does_not_listen_is_killed(
    wait_until: Any, redis_url: str, namespace: str
) -> None:
    lines: Lines = []
    variables = {"UMBEL_REDIS_URL": redis_url, "UMBEL_NAMESPACE": namespace}
    child = Child("flusher", ("flusher",), variables, lambda *line: lines.append(line))
    child.start()
    wait_until(said(lines, "watching the lanes"), "flusher at work")
    child.end()
    assert not child.alive()
    assert not [thread for thread in threading.enumerate() if "_listen" in thread.name]
