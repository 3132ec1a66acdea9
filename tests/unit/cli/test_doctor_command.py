"""``umbel doctor`` as it is typed: exit codes, JSON, and words that give no password away."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from umbel_cli.doctor import command, examine
from umbel_cli.doctor.findings import GROUPS, ok, problem, skipped, warning
from umbel_config.errors import StoreUnavailable
from umbel_config.store_errors import translate_errors

FINE = ok("redis.version", "Redis 6.2.14")
ODD = warning("redis.memory", "81% used", "Raise maxmemory")
BAD = problem("lanes.served", "Jobs wait", "Start a worker")


@pytest.mark.parametrize(
    ("findings", "code", "closing"),
    [
        ([FINE], 0, "All is well."),
        ([FINE, ODD], 0, "1 warning, no problems."),
        ([FINE, ODD, BAD], 1, "1 problem, 1 warning."),
        ([FINE, skipped("workers.answer", "none")], 0, "All is well; 1 check skipped."),
    ],
)
def test_exit_code_and_closing_sentence(
    findings: list[Any], code: int, closing: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "examine", lambda *_, **__: findings)
    answer = run("doctor")
    assert (answer.code, answer.err) == (code, "")
    assert answer.out.splitlines()[-1].strip() == closing


def test_a_whole_examination_as_json(run_here: Any) -> None:
    answer = run_here("doctor", "--deep", "--json")
    assert answer.err == ""
    assert answer.code == (1 if answer.json["level"] == "problem" else 0)
    assert all(
        list(finding) == ["check", "level", "summary", "advice"]
        for finding in answer.json["findings"]
    )
    checks = [finding["check"] for finding in answer.json["findings"]]
    assert len(checks) == len(set(checks)) == 28
    groups = [check.partition(".")[0] for check in checks]
    assert groups == sorted(groups, key=GROUPS.index)
    levels = {finding["check"]: finding["level"] for finding in answer.json["findings"]}
    assert levels["redis.version"] == levels["redis.layout"] == levels["lanes.served"] == "ok"
    assert levels["workers.alive"] == "warning"


def test_without_any_redis_the_rest_is_still_looked_at(run: Any, tmp_path: Any) -> None:
    answer = run("doctor", "--state-dir", str(tmp_path / "nothing"))
    assert answer.code == 1
    assert "no embedded Redis runs" in answer.out
    assert "Start one with `umbel up`" in answer.out
    assert "celery" in answer.out
    assert answer.out.splitlines()[-1].strip() == "1 problem, no warnings; 4 checks skipped."


def test_a_redis_that_is_away_is_a_problem_without_its_password(run: Any) -> None:
    url = "redis://user:geheim@localhost:1/0"
    for words in (("doctor",), ("doctor", "--json")):
        answer = run(*words, "--redis-url", url)
        assert answer.code == 1
        assert "cannot be reached" in answer.out
        assert "geheim" not in answer.out + answer.err
    found = answer.json
    assert (found["level"], found["findings"][0]["check"]) == ("problem", "redis.reachable")


def test_a_malformed_url_is_a_usage_error(run: Any) -> None:
    answer = run("doctor", "--redis-url", "http://user:geheim@localhost")
    assert (answer.code, answer.out) == (2, "")
    assert "no known scheme" in answer.err
    assert "geheim" not in answer.err


def test_a_check_that_lacks_a_package_is_skipped(
    run_here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(_: object) -> Any:
        raise ModuleNotFoundError("No module named 'celery'", name="celery")

    monkeypatch.setattr(examine, "inspect", lacking)
    findings = {each["check"]: each for each in run_here("doctor", "--json").json["findings"]}
    assert findings["workers.answer"]["level"] == "skipped"
    assert "umbel[worker]" in findings["workers.answer"]["advice"]
    assert "workers.alive" in findings


@pytest.mark.parametrize(
    ("error", "level", "words"),
    [
        (redis.exceptions.NoPermissionError("NOPERM no"), "skipped", "may not run what this needs"),
        (redis.ResponseError("unknown command 'x' geheim"), "skipped", "(ResponseError)"),
        (redis.ConnectionError("reset"), "problem", "cannot be reached"),
        (StoreUnavailable("Gone. Try again."), "problem", "Gone"),
    ],
)
def test_a_check_that_fails_holds_up_no_other(
    error: Exception,
    level: str,
    words: str,
    run_here: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> Any:
        with translate_errors("redis://here"):
            raise error

    monkeypatch.setattr(examine, "measure", broken)
    monkeypatch.setattr(examine, "inspect", lambda _: {})
    answer = run_here("doctor", "--json")
    findings = {each["check"]: each for each in answer.json["findings"]}
    assert findings["redis.latency"]["level"] == level
    assert words in findings["redis.latency"]["summary"]
    assert "geheim" not in answer.out
    assert {"redis.layout", "lanes.served", "models.artifacts"} <= findings.keys()


def test_a_registered_model_without_files_is_a_problem(
    run_here: Any, register: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    register("digits")
    monkeypatch.setattr(examine, "inspect", lambda _: {})
    answer = run_here("doctor")
    assert answer.code == 1
    assert "digits 1 is missing" in answer.out
    assert "No worker serves digits 1 (queue umbel)" in answer.out
