"""The flag that ends drains, in a worker process and in those of its pool."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from umbel_worker.shutdown import STOP_FILE, Stopping

ASK = "from umbel_worker.shutdown import stopping; print(stopping.is_set())"


@pytest.fixture
def parent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stopping:
    """A worker whose pool follows it."""
    monkeypatch.setenv(STOP_FILE, "")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = Stopping()
    made.share()
    return made


def answer_of_a_pool_process() -> str:
    done = subprocess.run(
        [sys.executable, "-c", ASK], capture_output=True, check=True, text=True, env=os.environ
    )
    return done.stdout.strip()


def test_processes_of_the_pool_follow_their_parent(parent: Stopping, tmp_path: Path) -> None:
    child = Stopping()
    assert not child.is_set()
    assert list(tmp_path.iterdir()) == [], "nothing lies around while the worker runs"
    parent.set()
    assert parent.is_set()
    assert child.is_set()
    assert answer_of_a_pool_process() == "True"
    parent.clear_away()
    parent.clear_away()
    assert list(tmp_path.iterdir()) == []


def test_a_worker_started_anew_in_place_of_another_does_not_stop(
    parent: Stopping, tmp_path: Path
) -> None:
    """Celery does so at SIGHUP; the environment is the old one."""
    parent.set()
    successor = Stopping()
    assert successor.is_set()
    successor.share()
    assert not successor.is_set()
    parent.clear_away()


def test_a_name_is_given_once(parent: Stopping) -> None:
    before = os.environ[STOP_FILE]
    parent.share()
    assert os.environ[STOP_FILE] == before


def test_a_worker_without_a_pool_sets_the_flag_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STOP_FILE, raising=False)
    alone = Stopping()
    alone.set()
    assert alone.is_set()
    assert not Stopping().is_set()
    alone.clear_away()


def test_no_place_for_the_file_is_told(
    parent: Stopping, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tmp_path.rmdir()
    parent.set()
    assert parent.is_set()
    assert "pool processes are not told to stop" in caplog.text
    tmp_path.mkdir()
