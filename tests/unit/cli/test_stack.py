"""The stack without workers, which load torch: Redis, the flusher, stopping and taking over."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from umbel_cli.stack import Stack
from umbel_config.embedded import EmbeddedRedis, attach
from umbel_config.errors import StoreUnavailable
from umbel_config.settings import load_settings, mask_url


def silent(name: str, line: str) -> None:
    """Keeps quiet."""


def test_a_given_redis_is_used_and_left_running(settings: Any, redis_url: str) -> None:
    with Stack(settings(), workers=0, say=silent) as stack:
        assert stack.redis == mask_url(redis_url)
        assert not stack.joins
        assert not stack.wait_ready(threading.Event(), timeout_s=0.2)
    with EmbeddedRedis.start(Path(settings().state_dir)) as server:
        assert server.owned, "the stack started a Redis although it was given one"


def test_an_embedded_redis_ends_with_its_stack(tmp_path: Path) -> None:
    given = load_settings(state_dir=tmp_path)
    with Stack(given, workers=0, say=silent) as stack:
        assert attach(tmp_path) is not None
        assert "(embedded, pid " in stack.redis
    assert attach(tmp_path) is None


def test_a_second_stack_joins_and_takes_over(tmp_path: Path, wait_until: Any) -> None:
    lines: list[str] = []
    given = load_settings(state_dir=tmp_path)
    with (
        EmbeddedRedis.start(tmp_path) as first,
        Stack(given, workers=0, say=lambda _, line: lines.append(line)) as stack,
    ):
        assert stack.joins
        first.close()

        def taken_over() -> bool:
            stack.tend()
            return not stack.joins

        wait_until(taken_over, "the stack runs Redis itself")
        assert attach(tmp_path) is not None
        assert any("the embedded Redis is gone; starting it here" in line for line in lines)


def test_hurry_kills_what_does_not_stop(settings: Any) -> None:
    lines: list[str] = []
    stack = Stack(
        settings(flusher=False), workers=0, say=lambda *line: lines.append(": ".join(line))
    )
    stack.start()
    pid = stack.pids["flusher"]
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    hurry = threading.Event()
    hurry.set()
    stack.stop(hurry)
    assert "flusher: does not stop in time; killed, its jobs will run again" in lines
    assert stack.pids == {}


def test_a_stack_that_cannot_start_leaves_nothing(tmp_path: Path) -> None:
    given = load_settings(redis_url="redis://127.0.0.1:1", redis_retries=0, state_dir=tmp_path)
    with pytest.raises(StoreUnavailable), Stack(given, workers=1, say=silent):
        pytest.fail("it started without a Redis")


def test_members_have_longer_to_stop_than_their_batches(settings: Any) -> None:
    for grace_s in (0, 20, 300):
        stack = Stack(settings(grace_s=grace_s), workers=0, say=silent)
        assert stack.patience_s >= grace_s + 5


def test_a_stack_that_sends_has_a_secret(settings: Any) -> None:
    given = settings()
    stack = Stack(given, workers=0, say=silent, sender=True)
    assert stack.secret_file == given.state_dir / "callback-secret"
    assert len(stack.settings.callback_secrets) == 1
    again = Stack(stack.settings, workers=0, say=silent, sender=True)
    assert (again.secret_file, again.settings) == (None, stack.settings)


def test_a_stack_that_sends_nothing_makes_no_secret(settings: Any) -> None:
    given = settings()
    stack = Stack(given, workers=0, say=silent)
    assert (stack.secret_file, stack.settings) == (None, given)
    assert not (given.state_dir / "callback-secret").exists()
