"""What goes wrong on the command line is one sentence with an exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def one_line(answer: tuple[str, str]) -> str:
    out, err = answer
    assert out == ""
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    return err


@pytest.mark.parametrize(
    "words",
    [("lanes",), ("submit", "sum", "[1]"), ("worker",), ("up",), ("models", "list"), ("flusher",)],
)
def test_redis_that_is_down(own: Any, words: tuple[str, ...]) -> None:
    flags = ("--redis-url", "redis://:hunter2@127.0.0.1:1/0", "--redis-retries", "0")
    text = one_line(own.run(*words, *flags, code=1))
    assert "redis://:***@127.0.0.1:1/0 cannot be reached" in text
    assert "hunter2" not in text


def test_wrong_password(own: Any, redis_url: str) -> None:
    url = redis_url.replace("://", "://me:hunter2@", 1)
    text = one_line(own.run("lanes", "--redis-url", url, code=1))
    assert "password" in text
    assert "hunter2" not in text


def test_no_redis_at_all(own: Any) -> None:
    assert "`umbel up`" in one_line(own.run("submit", "sum", "[1]", code=1))


def test_malformed_folders(shared: Any, tmp_path: Path) -> None:
    assert "model.yaml does not exist" in one_line(
        shared.run("models", "push", str(tmp_path), code=1)
    )
    (tmp_path / "model.yaml").write_text("name: [sum\n")
    assert "cannot be read as YAML" in one_line(shared.run("models", "push", str(tmp_path), code=1))
