"""Flags come from the settings model: all of them, with the same names, and they win."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from umbel_batching.retention import Retention
from umbel_cli.main import app
from umbel_cli.options import COMMON, EVERY, NO_FLAG, command
from umbel_config.settings import Settings


def flags() -> dict[str, set[str]]:
    """The flags of every command, by its full name."""
    return dict(_walk(typer.main.get_command(app), ""))


def _walk(group: Any, prefix: str) -> list[tuple[str, set[str]]]:
    found = []
    for name, each in group.commands.items():
        if hasattr(each, "commands"):
            found += _walk(each, f"{prefix}{name} ")
        else:
            options = {
                flag for param in each.params for flag in (*param.opts, *param.secondary_opts)
            }
            found.append((prefix + name, options))
    return found


def flag_of(name: str) -> str:
    return "--" + name.replace("_", "-")


@pytest.mark.parametrize("name", sorted(Settings.model_fields.keys() - set(NO_FLAG)))
def test_every_setting_has_a_flag_of_its_name(name: str) -> None:
    assert all(flag_of(name) in flags()[each] for each in ("up", "worker", "demo"))


def test_secrets_have_no_flag_as_whoever_lists_processes_would_read_them() -> None:
    assert not any(flag_of("callback_secrets") in options for options in flags().values())


def test_a_flusher_takes_all_that_bounds_what_it_keeps() -> None:
    """It makes dead letters of jobs that were lost with their workers."""
    wanted = {flag_of(name) for name in (*Retention.__slots__, "max_attempts")}
    assert wanted <= flags()["flusher"]


def test_every_command_takes_the_common_settings() -> None:
    every = flags()
    assert {"up", "worker", "flusher", "models push", "models list", "submit", "lanes"} <= set(
        every
    )
    for name, options in every.items():
        assert {flag_of(each) for each in COMMON} <= options, name


def test_every_command_that_prints_data_can_print_json() -> None:
    without = {name for name, options in flags().items() if "--json" not in options}
    # The secret is one word, to be piped into a file.
    assert without == {"up", "worker", "flusher", "sender", "callbacks secret"}


def test_switches_have_an_off() -> None:
    assert "--no-flusher" in flags()["worker"]


class Shown:
    """A small app whose one command keeps the settings it was given."""

    def __init__(self) -> None:
        self.app, self.settings = typer.Typer(), Settings.model_construct()
        command(self.app, EVERY, examples=("umbel show [1, 2]",))(self.show)

    def show(self, settings: Settings) -> None:
        """Keep the settings."""
        self.settings = settings

    def __call__(self, *words: str) -> Settings:
        result = CliRunner().invoke(self.app, list(words))
        assert result.exit_code == 0, result.output
        return self.settings


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shown:
    monkeypatch.chdir(tmp_path)
    return Shown()


def test_flag_wins_over_environment_over_file_over_default(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = shown().lease_ms
    Path("umbel.yaml").write_text("lease_ms: 1000\n")
    from_file = shown().lease_ms
    monkeypatch.setenv("UMBEL_LEASE_MS", "2000")
    from_environment = shown().lease_ms
    from_flag = shown("--lease-ms", "3000").lease_ms
    assert (default, from_file, from_environment, from_flag) == (10_000, 1000, 2000, 3000)


def test_flags_of_every_kind(shown: Shown) -> None:
    settings = shown(
        *(
            "--redis-url",
            "redis://me:hunter2@store:1/0",
            "--state-dir",
            "here",
            "--pool",
            "prefork",
        ),
        *("-Q", "gpu,cpu", "-c", "2", "--no-flusher", "--redis-timeout-s", "2.5"),
    )
    assert settings.redis_url is not None
    assert settings.redis_url.get_secret_value() == "redis://me:hunter2@store:1/0"
    assert settings.state_dir == Path.cwd() / "here"
    assert settings.queues == ("gpu", "cpu")
    assert (settings.pool, settings.concurrency) == ("prefork", 2)
    assert settings.flusher is False
    assert settings.redis_timeout_s == 2.5


@pytest.mark.parametrize(
    "words", [("--pool", "green"), ("--lease-ms", "1"), ("--namespace", "No Spaces")]
)
def test_a_value_out_of_range_is_a_usage_error(shown: Shown, words: tuple[str, str]) -> None:
    result = CliRunner().invoke(shown.app, list(words))
    assert result.exit_code == 2
    assert words[0][2:].replace("-", "_") in result.stderr


def test_help_tells_description_choices_default_and_examples(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = CliRunner().invoke(shown.app, ["--help"]).stdout
    description = Settings.model_fields["pool"].description
    assert description is not None
    assert description in text
    assert "threads, prefork; default: threads" in text
    assert "$ umbel show [1, 2]" in text
