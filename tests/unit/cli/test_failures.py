"""Errors are one sentence and an exit code, never a traceback that nobody asked for."""

from __future__ import annotations

import json

import pytest
import typer

from umbel_cli.failures import facts, reporting, sentence
from umbel_config.errors import (
    ConfigError,
    JobFailed,
    LaneFull,
    ModelNotFound,
    ResultTimeout,
    UmbelError,
)


def told(
    error: Exception,
    capsys: pytest.CaptureFixture[str],
    *,
    as_json: bool = False,
    debug: bool = False,
) -> tuple[int, str]:
    with pytest.raises(typer.Exit) as ended, reporting(as_json=as_json, debug=debug):
        raise error
    captured = capsys.readouterr()
    assert captured.out == ""
    return ended.value.exit_code, captured.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UmbelError("it broke"), 1),
        (ModelNotFound("it broke"), 1),
        (ConfigError("it broke"), 2),
        (ResultTimeout("it broke"), 3),
    ],
)
def test_an_error_is_one_line(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(error, capsys) == (code, "error: it broke\n")


def test_a_long_sentence_with_brackets_stays_whole(capsys: pytest.CaptureFixture[str]) -> None:
    text = "must have shape [64], but has [2]. " * 10
    assert told(UmbelError(text), capsys)[1] == f"error: {text}\n"


def test_json_errors_are_objects(capsys: pytest.CaptureFixture[str]) -> None:
    error = LaneFull("The lane is full.", retry_after=1.5)
    code, text = told(error, capsys, as_json=True)
    assert code == 1
    assert json.loads(text) == {
        "error": "LaneFull",
        "message": "The lane is full.",
        "retryable": True,
        "retry_after": 1.5,
    }


def test_json_errors_name_the_job_and_what_the_model_raised() -> None:
    known = facts(JobFailed("it failed", job_id="abc", kind="ValueError"))
    assert (known["job_id"], known["kind"], known["retryable"]) == ("abc", "ValueError", False)


@pytest.mark.parametrize(
    ("missing", "extra"),
    [("torch", "worker"), ("celery.app", "worker"), ("sklearn.datasets", "demo")],
)
def test_a_missing_package_names_its_extra(missing: str, extra: str) -> None:
    text = sentence(ModuleNotFoundError(f"No module named {missing!r}", name=missing))
    assert f"pip install 'umbel[{extra}]'" in text


def test_a_bug_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = told(ZeroDivisionError("division by zero"), capsys)
    assert code == 1
    assert "ZeroDivisionError: division by zero" in text
    assert len(text.splitlines()) == 1


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    _, text = told(UmbelError("it broke"), capsys, debug=True)
    assert "Traceback" in text
    assert text.endswith("error: it broke\n")


def test_debug_in_the_environment_counts_before_settings_are_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UMBEL_LOG_LEVEL", "debug")
    assert "Traceback" in told(UmbelError("it broke"), capsys)[1]


@pytest.mark.parametrize("error", [typer.Exit(7), typer.Abort(), typer.BadParameter("no")])
def test_what_typer_raises_passes(error: Exception) -> None:
    with pytest.raises(type(error)), reporting(as_json=False, debug=False):
        raise error
