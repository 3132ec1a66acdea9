"""Settings: which source wins, what is refused, and what a log may show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from umbel_config.errors import ConfigError
from umbel_config.settings import Settings, config_file, load_settings, mask_url

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ROOT / "configs" / "umbel.yaml"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_default_holds_without_any_source(folder: Path) -> None:
    assert load_settings().lease_ms == 10_000


def test_file_wins_over_default(folder: Path) -> None:
    (folder / "umbel.yaml").write_text("lease_ms: 2000\n")
    assert load_settings().lease_ms == 2000


def test_environment_wins_over_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "umbel.yaml").write_text("lease_ms: 2000\nconcurrency: 5\n")
    monkeypatch.setenv("UMBEL_LEASE_MS", "3000")
    settings = load_settings()
    assert (settings.lease_ms, settings.concurrency) == (3000, 5)


def test_argument_wins_over_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMBEL_LEASE_MS", "3000")
    assert load_settings(lease_ms=4000).lease_ms == 4000


def test_argument_none_means_not_given(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMBEL_LEASE_MS", "3000")
    assert load_settings(lease_ms=None).lease_ms == 3000


def test_empty_variable_means_not_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMBEL_REDIS_URL", "")
    assert load_settings().redis_url is None


def test_lists_are_read_from_words_in_every_source(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "umbel.yaml").write_text("allowed_modules: [one, two]\n")
    monkeypatch.setenv("UMBEL_QUEUES", "gpu, cpu")
    settings = load_settings()
    assert settings.queues == ("gpu", "cpu")
    assert settings.allowed_modules == ("one", "two")
    assert load_settings(queues="a,b").queues == ("a", "b")


def test_umbel_config_names_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "umbel.yaml").write_text("lease_ms: 2000\n")
    (folder / "other.yaml").write_text("lease_ms: 2500\n")
    monkeypatch.setenv("UMBEL_CONFIG", "other.yaml")
    assert load_settings().lease_ms == 2500


def test_missing_named_file_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMBEL_CONFIG", "nowhere.yaml")
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_settings()


def test_shipped_place_wins_over_working_directory(folder: Path) -> None:
    (folder / "configs").mkdir()
    (folder / "configs" / "umbel.yaml").write_text("lease_ms: 2000\n")
    (folder / "umbel.yaml").write_text("lease_ms: 2500\n")
    assert config_file() == Path("configs/umbel.yaml")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("lease_ms: 5\n", "UMBEL_LEASE_MS"),
        ("leese_ms: 5000\n", "leese_ms"),
        ("lease_ms: [\n", "Cannot read the settings file"),
        ("just words\n", "Cannot read the settings file"),
    ],
)
def test_bad_file_is_explained(folder: Path, content: str, named: str) -> None:
    (folder / "umbel.yaml").write_text(content)
    with pytest.raises(ConfigError, match=named):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("namespace", "Has Space"),
        ("lease_ms", 199),
        ("max_attempts", 0),
        ("queues", ""),
        ("device", "tpu"),
        ("pool", "gevent"),
    ],
)
def test_bad_value_is_named(folder: Path, name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        load_settings(**{name: value})


def test_error_never_repeats_the_value(folder: Path) -> None:
    (folder / "umbel.yaml").write_text("redis_url: [hunter2]\n")
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)


def test_paths_become_absolute_and_artifacts_follow_the_state_folder(folder: Path) -> None:
    settings = load_settings(state_dir="state")
    assert settings.state_dir == folder / "state"
    assert settings.artifacts == str(folder / "state" / "artifacts")
    assert load_settings(artifact_root="s3://bucket").artifacts == "s3://bucket"


def test_settings_are_frozen(folder: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().lease_ms = 1  # type: ignore[misc]


def test_masked_settings_and_repr_hide_the_password(folder: Path) -> None:
    settings = load_settings(redis_url="redis://me:hunter2@store:6379/0")
    assert settings.masked()["redis_url"] == "redis://me:***@store:6379/0"
    assert "hunter2" not in repr(settings) + str(settings.masked())


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://store:6379/0", "redis://store:6379/0"),
        ("redis://:hunter2@store", "redis://:***@store"),
        ("redis://me@store", "redis://me@store"),
        ("rediss://me:hun/ter2@store?x=1", "rediss://me:***@store?x=1"),
        ("redis://me:hun@ter2@store", "redis://me:***@store"),
        ("unix:///s.sock?password=hunter2&db=1", "unix:///s.sock?password=***&db=1"),
    ],
)
def test_mask_url(url: str, masked: str) -> None:
    assert mask_url(url) == masked


def test_shipped_file_holds_every_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = SHIPPED.read_text(encoding="utf-8")
    shipped = yaml.safe_load(text)
    defaults = Settings.model_construct()
    assert load_settings() == defaults
    assert {*shipped, "state_dir"} == set(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        assert f"{name}:" in text
        assert field.description, f"{name} has no description"


def test_rendered_files_are_up_to_date() -> None:
    answer = subprocess.run(
        [sys.executable, ROOT / "scripts" / "render_settings.py", "--check"],
        capture_output=True,
        check=False,
        text=True,
    )
    assert answer.returncode == 0, answer.stdout
