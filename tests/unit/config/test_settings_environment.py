"""A child process gets the very settings of its parent through its environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from umbel_config.settings import Settings, environment, load_settings


def test_a_child_has_the_same_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = load_settings(
        redis_url="redis://me:hunter2@store:6379/0",
        state_dir=tmp_path / "a folder",
        artifact_root="s3://bucket/models",
        redis_timeout_s=2.5,
        queues=("gpu", "cpu"),
        flusher=False,
        allowed_modules=("a.b", "c"),
    )
    variables = environment(given)
    assert set(variables) == {f"UMBEL_{name.upper()}" for name in Settings.model_fields}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert load_settings() == given


def test_it_wins_over_a_file_even_where_it_is_empty(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = load_settings(state_dir=tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("umbel.yaml").write_text("allowed_modules: [evil]\nartifact_root: elsewhere\n")
    assert load_settings().allowed_modules == ("evil",)
    for name, value in environment(given).items():
        monkeypatch.setenv(name, value)
    child = load_settings()
    assert child.allowed_modules == ()
    assert child.artifacts == given.artifacts
    assert child.redis_url is None
