"""``umbel models`` on a real Redis; what loads torch is in the acceptance tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def test_an_empty_registry_says_what_to_do(run_here: Any) -> None:
    assert "umbel models push FOLDER" in run_here("models", "list").out
    assert run_here("models", "list", "--json").json == []


def test_list_and_show(run_here: Any, register: Any) -> None:
    manifest = register("reader")
    listed = run_here("models", "list")
    assert listed.code == 0
    assert "x float32 [3]" in listed.out
    (entry,) = run_here("models", "list", "--json").json
    assert entry.pop("life")["state"] == "registered"
    assert entry == manifest.model_dump(mode="json")
    shown = run_here("models", "show", "reader")
    for words in ("reader 1", "made up [for a test]", "up to 8 jobs", "2.0 KiB", "0" * 64):
        assert words in shown.out
    told = run_here("models", "show", "reader", "1", "--json").json
    assert told.pop("life")["share"] == 1
    assert told.pop("traffic")["versions"] == ["1"]
    assert told.pop("padding") is None
    assert told.pop("lane") is None
    assert told == manifest.model_dump(mode="json")


def test_show_of_what_is_not_there(run_here: Any, register: Any) -> None:
    register("reader")
    answer = run_here("models", "show", "raeder")
    assert (answer.code, answer.out) == (1, "")
    assert "Did you mean 'reader'" in answer.err
    answer = run_here("models", "show", "reader", "9")
    assert answer.code == 1
    assert "no version '9'" in answer.err


def test_without_a_redis_url_an_embedded_one_runs_for_the_moment(run: Any, tmp_path: Path) -> None:
    words = ("models", "list", "--state-dir", str(tmp_path / "s"))
    assert run(*words).code == 0
    assert (tmp_path / "s" / "redis").is_dir()
    answer = run("lanes", "--state-dir", str(tmp_path / "s"))
    assert answer.code == 1
    assert "no embedded Redis runs" in answer.err
