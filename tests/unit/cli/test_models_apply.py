"""``umbel models apply``: what it shows, when it asks, and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from umbel_registry import Traffic, TrafficControl

SAID = """
models:
  reader:
    aliases: {production: "2"}
    route: {1: 90, 2: 10}
    batching: {1: {max_wait_ms: 2}}
    retired: {3: finish}
"""
PLAN = """\
reader
  - alias staging     3
  + alias production  2
  ~ route             3=1 -> 1=90 2=10
  + batching 1        max_wait_ms=2
  + retired 3         finish
"""


@pytest.fixture
def control(store_redis: redis.Redis, namespace: str, register: Any) -> TrafficControl:
    """Of a model ``reader`` with three versions, the third of which answers."""
    for version in ("1", "2", "3"):
        register("reader", version)
    control = TrafficControl(store_redis, namespace, who="ann@test")
    control.route("reader", {"3": 1})
    control.alias("reader", {"staging": "3"})
    return control


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Writes the file, where the command looks for it."""
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()

    def write(text: str) -> None:
        Path("configs/models.yaml").write_text(text)

    return write


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umbel_cli.models.asking.on_terminal", lambda: True)


def traffic(control: TrafficControl) -> Traffic:
    return control.read("reader").traffic


def test_a_dry_run_shows_the_plan_and_ends_with_2(
    run_here: Any, control: TrafficControl, say: Any
) -> None:
    say(SAID)
    answer = run_here("models", "apply", "--dry-run")
    assert (answer.code, answer.err) == (2, "")
    assert answer.out == f"{PLAN}\nA dry run: nothing was changed.\n"
    assert traffic(control).aliases == {"staging": "3"}
    told = run_here("models", "apply", "--dry-run", "--json")
    assert told.code == 2
    assert told.json["steps"][1] == {
        "model": "reader",
        "verb": "alias",
        "thing": "alias production",
        "before": None,
        "after": "2",
    }
    assert (told.json["file"], told.json["problems"]) == ("configs/models.yaml", {})


def test_it_is_done_once_and_then_there_is_nothing_to_do(
    run_here: Any, control: TrafficControl, say: Any
) -> None:
    say(SAID)
    answer = run_here("models", "apply", "--yes", "--now")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == f"{PLAN}\ndone reader\n"
    assert traffic(control).aliases == {"production": "2"}
    newest = control.history("reader")[0]
    assert (newest.what, newest.why) == ("apply", "configs/models.yaml")
    for words in ((), ("--dry-run",), ("--yes",)):
        answer = run_here("models", "apply", *words)
        assert answer.code == 0
        assert answer.out == "Nothing to do: 1 model as configs/models.yaml says.\n"
    assert run_here("models", "apply", "--json", "--dry-run").json["steps"] == []


def test_it_asks_on_a_terminal(
    run_here: Any, control: TrafficControl, say: Any, on_terminal: None
) -> None:
    say(SAID)
    answer = run_here("models", "apply", "--now", stdin="n\n")
    assert answer.code == 1
    assert "Do that? [y/N]" in answer.err
    assert traffic(control).aliases == {"staging": "3"}
    answer = run_here("models", "apply", "--now", stdin="y\n")
    assert answer.code == 0
    assert traffic(control).aliases == {"production": "2"}
    say("models: {reader: {aliases: {}}}")
    answer = run_here("models", "apply", "--json")
    assert "--yes" in answer.err, "a program cannot answer"


def test_a_script_has_to_say_that_it_means_it(
    run_here: Any, control: TrafficControl, say: Any
) -> None:
    say(SAID)
    answer = run_here("models", "apply")
    assert answer.code == 2
    assert answer.out == f"{PLAN}\n"
    assert "--yes" in answer.err
    assert "--dry-run" in answer.err
    assert traffic(control).aliases == {"staging": "3"}


def test_a_file_of_ones_own(run_here: Any, control: TrafficControl, tmp_path: Path) -> None:
    file = tmp_path / "ours.yaml"
    file.write_text("models: {reader: {aliases: {}}}")
    told = run_here("models", "apply", str(file), "--yes", "--json")
    assert told.code == 0
    assert told.json["steps"][0]["after"] is None
    assert traffic(control).aliases == {}


def test_problems_are_told_and_the_rest_is_done(
    run_here: Any, control: TrafficControl, say: Any, register: Any
) -> None:
    register("writer", "1")
    say("models: {reader: {route: {9: 1}}, writer: {aliases: {production: 1}}, nobody: {}}")
    answer = run_here("models", "apply", "--dry-run")
    assert answer.code == 1, "a problem counts for more than what is to be done"
    answer = run_here("models", "apply", "--yes")
    assert answer.code == 1
    assert answer.err.count("error: ") == 2
    assert "models.reader: version '9' is not registered" in answer.err
    assert "models.nobody: no such model is registered" in answer.err
    assert control.read("writer").traffic.aliases == {"production": "1"}
    told = run_here("models", "apply", "--yes", "--json")
    assert told.code == 1
    assert told.json["problems"]["reader"]["error"] == "VersionNotFound"


def test_a_route_does_not_change_before_workers_are_ready(
    run_here: Any, control: TrafficControl, say: Any
) -> None:
    say(SAID)
    answer = run_here("models", "apply", "--yes", "--timeout", "0s")
    assert answer.code == 1
    assert "no worker serves queue umbel" in answer.err
    assert traffic(control).aliases == {"staging": "3"}


@pytest.mark.parametrize("text", ["models: {reader: {route: {1.10: 1}}}", "models:"])
def test_a_file_that_is_wrong(run_here: Any, say: Any, text: str) -> None:
    say(text)
    answer = run_here("models", "apply", "--dry-run")
    assert answer.code == 1
    assert answer.err.startswith("error: configs/models.yaml")


def test_a_push_is_shown_without_doing_it(
    run_here: Any, control: TrafficControl, say: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "four"
    folder.mkdir()
    (folder / "model.pt2").write_bytes(b"weights")
    (folder / "model.yaml").write_text(
        "{name: reader, format: torch_export, weights: model.pt2, "
        "inputs: {x: {dtype: float32, shape: [3]}}, outputs: {y: {dtype: float32, shape: [1]}}}"
    )
    control.change("reader", "test", lambda now: Traffic())
    say("models: {reader: {versions: {4: ../four}, route: {4: 1}}}")
    answer = run_here("models", "apply", "--dry-run")
    assert answer.out.splitlines()[:4] == [
        "reader",
        "  = route      3=1 while other versions come in",
        "  + version 4  four",
        "  + route      4=1",
    ]
