"""The command as a whole: version, help, and what it does not load."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from typing import Any

import pytest

from umbel_batching.keys import shared_keys

COMMANDS = (
    "demo",
    "up",
    "worker",
    "flusher",
    "sender",
    "submit",
    "job",
    "cancel",
    "lanes",
    "doctor",
)


def test_version(run: Any) -> None:
    answer = run("--version")
    assert (answer.code, answer.out) == (0, f"umbel {version('umbel')}\n")


def test_without_a_command_it_shows_all_of_them(run: Any) -> None:
    answer = run()
    assert answer.code == 2
    assert all(name in answer.out + answer.err for name in (*COMMANDS, *GROUPS))


GROUPS = {
    "models": ("push", "list", "show"),
    "dead": ("list", "show", "replay", "drop"),
    "callbacks": ("list", "receivers", "show", "replay", "verify", "secret"),
}


@pytest.mark.parametrize(
    "words",
    [
        *((name,) for name in COMMANDS),
        *((group, name) for group, names in GROUPS.items() for name in names),
    ],
)
def test_help_of_every_command_ends_with_examples(words: tuple[str, ...], run: Any) -> None:
    answer = run(*words, "--help")
    assert answer.code == 0
    before, _, examples = answer.out.partition("Examples")
    assert "Settings" in before
    assert f"$ umbel {' '.join(words)}" in examples or "| umbel" in examples


def test_an_unknown_command_is_a_usage_error(run: Any) -> None:
    answer = run("lane")
    assert answer.code == 2
    assert "lane" in answer.err


def loaded_by(code: str) -> str:
    script = f"import sys\n{code}\nprint(sorted(set(m.partition('.')[0] for m in sys.modules)))"
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True
    ).stdout


def test_the_command_line_loads_neither_torch_nor_celery() -> None:
    loaded = loaded_by("import umbel_cli.main")
    assert "'umbel'" in loaded
    assert not any(name in loaded for name in ("'torch'", "'celery'", "'sklearn'"))


@pytest.mark.parametrize("name", ["flusher", "worker"])
def test_data_of_another_layout_is_not_touched(
    run_here: Any, store_redis: Any, namespace: str, name: str
) -> None:
    store_redis.set(shared_keys(namespace).store, "1 0011223344556677")
    answer = run_here(name)
    assert answer.code == 1
    assert "holds data of layout 1" in answer.err


def test_a_flusher_needs_no_torch() -> None:
    loaded = loaded_by("import umbel_cli.logs, umbel_worker.app, umbel_worker.dispatch")
    assert "'celery'" in loaded
    assert "'torch'" not in loaded
