"""One readable line for each record; Celery's chatter only while debugging."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator

import pytest
from celery.exceptions import CPendingDeprecationWarning

from umbel_cli.logs import configure


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def test_lines_tell_time_level_and_who(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info")
    logging.getLogger("umbel.worker").info("loaded %s", "digits@1")
    logging.getLogger("celery.worker.consumer.connection").warning("one\n two\n")
    first, second = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d info    worker   loaded digits@1", first)
    assert re.fullmatch(r"\d\d:\d\d:\d\d warning celery   one two", second)


def test_tracebacks_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info")
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("umbel.worker").exception("it failed")
    assert "ValueError: broken" in capsys.readouterr().err


def test_what_celery_says_of_each_task_is_for_debugging(capsys: pytest.CaptureFixture[str]) -> None:
    chatter = logging.getLogger("celery.worker.strategy")
    configure("info")
    chatter.info("Task received")
    assert capsys.readouterr().err == ""
    configure("debug")
    chatter.info("Task received")
    assert "Task received" in capsys.readouterr().err


def test_celerys_plans_are_no_news(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info")
    with warnings.catch_warnings():
        # What Celery does once its logging is set up.
        warnings.filterwarnings("always", category=CPendingDeprecationWarning)
        warnings.warn("a default will change", CPendingDeprecationWarning, stacklevel=1)
        warnings.filterwarnings("always", category=UserWarning)
        warnings.warn("your model is odd", UserWarning, stacklevel=1)
    told = capsys.readouterr().err
    assert "your model is odd" in told
    assert "a default will change" not in told
