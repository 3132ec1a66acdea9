"""How a parent of a pool takes the end of a process: one line, one report, no hint twice."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from celery.exceptions import WorkerLostError
from pydantic import SecretStr

from umbel_config.settings import Settings
from umbel_worker import deaths
from umbel_worker.app import make_app
from umbel_worker.deaths import DrainRequest
from umbel_worker.dispatch import INFER

Report = tuple[str, str, str]


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[Report]:
    told: list[Report] = []
    monkeypatch.setattr(deaths, "take_back", lambda *report: told.append(report))
    return told


@pytest.fixture
def acks() -> list[str]:
    return []


@pytest.fixture
def make(acks: list[str]) -> Callable[[int | None], DrainRequest]:
    """A request that process 42 runs, which ends with the given code."""
    app = make_app(Settings(redis_url=SecretStr("redis://localhost:1/0")))
    app.loader.import_default_modules()

    def make(code: int | None) -> DrainRequest:
        message = SimpleNamespace(
            headers={"id": "token", "task": INFER, "argsrepr": "", "kwargsrepr": ""},
            body=(["affine@1"], {}, {}),
            payload=(["affine@1"], {}, {}),
            delivery_info={},
            properties={},
            content_type="application/json",
            content_encoding="utf-8",
        )
        request = DrainRequest(
            message,
            app=app,
            on_ack=lambda *_: acks.append("ack"),
            on_reject=lambda *_: acks.append("reject"),
        )
        request.worker_pid, request._process = 42, SimpleNamespace(exitcode=code)
        return request

    return make


def raised(error: BaseException) -> Any:
    """What Celery passes on."""
    try:
        raise error
    except BaseException:  # noqa: BLE001  (the end of a process is none of Exception)
        return ExceptionInfo()


def test_celery_makes_these_requests(make: Any) -> None:
    request = make(None)
    assert request.task.Request == f"{DrainRequest.__module__}:{DrainRequest.__qualname__}"


@pytest.mark.parametrize(
    ("error", "code", "cause"),
    [
        (WorkerLostError("exited"), 7, "ended by itself with exit code 7"),
        (WorkerLostError("exited"), -11, "killed by SIGSEGV"),
        (WorkerLostError("exited"), None, "ended in an unknown way"),
        (SystemExit(-15), None, "killed by SIGTERM"),
        (SystemExit("text"), None, "ended in an unknown way"),
    ],
    ids=repr,
)
def test_death_is_reported_once_and_the_hint_is_done_with(
    make: Any,
    reports: list[Report],
    acks: list[str],
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
    code: int | None,
    cause: str,
) -> None:
    make(code).on_failure(raised(error))
    assert reports == [("affine@1", "token", cause)]
    assert acks == ["ack"]
    (line,) = caplog.records
    assert line.exc_info is None
    assert cause in line.getMessage()
    assert "pool process 42" in line.getMessage()


def test_other_failures_are_celerys(
    make: Any, reports: list[Report], acks: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        make(None).on_failure(raised(ValueError("bug")), return_ok=True)
    assert reports == []
    assert acks == ["ack"]


def test_a_process_that_celery_itself_ended_is_no_death(
    make: Any, reports: list[Report], acks: list[str]
) -> None:
    request = make(-15)
    request._already_cancelled = True
    request.on_failure(raised(SystemExit(-15)))
    assert (reports, acks) == ([], [])


def test_process_is_noted_when_it_takes_the_task(make: Any, monkeypatch: Any) -> None:
    process = SimpleNamespace(pid=77, exitcode=-9)
    monkeypatch.setattr(deaths, "active_children", lambda: [SimpleNamespace(pid=1), process])
    request = make(None)
    request.on_accepted(77, 0.0)
    assert request._process is process
    request.on_accepted(78, 0.0)
    assert request._process is None, "a thread of this process has none"
