"""``umbel up`` where its workers could not run."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from umbel_config.embedded import attach
from umbel_config.settings import load_settings


@pytest.mark.parametrize("missing", ["celery", "torch"])
def test_without_the_worker_extra_nothing_is_started(
    missing: str, run: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setenv("UMBEL_STATE_DIR", str(tmp_path))
    answer = run("up")
    assert answer.code == 1
    assert answer.out == ""
    assert f"needs {missing}" in answer.err
    assert "pip install 'umbel[worker]'" in answer.err
    assert attach(load_settings().state_dir) is None
    assert not list(tmp_path.iterdir())
