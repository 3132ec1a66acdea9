"""The secret of a stack on one machine: made once, kept to its owner, the same for all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from umbel_callbacks.signing import Secrets, new_secret
from umbel_cli.secret_file import with_secret
from umbel_config.errors import ConfigError
from umbel_config.settings import Settings, load_settings


@pytest.fixture
def site(tmp_path: Path) -> Settings:
    return load_settings(state_dir=tmp_path / "state" / "umbel")


def secrets(settings: Settings) -> list[str]:
    return [word.get_secret_value() for word in settings.callback_secrets]


def test_a_secret_is_made_once_and_kept_to_its_owner(site: Settings) -> None:
    before = os.umask(0)
    try:
        first, path = with_secret(site)
    finally:
        os.umask(before)
    assert path == site.state_dir / "callback-secret"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert secrets(first) == [path.read_text().strip()]
    assert with_secret(site) == (first, path)
    assert [each.name for each in path.parent.iterdir()] == ["callback-secret"]


def test_the_secret_signs(site: Settings) -> None:
    made, _ = with_secret(site)
    assert len(Secrets.of(made).for_host("hooks.example")[0]) == 32
    assert site.callback_secrets == ()
    assert made == site.model_copy(update={"callback_secrets": made.callback_secrets})


def test_given_secrets_win(site: Settings) -> None:
    given = site.model_copy(update={"callback_secrets": (SecretStr(new_secret()),)})
    assert with_secret(given) == (given, None)
    assert not site.state_dir.exists()


def test_a_secret_of_the_operator_is_taken_as_it_is(site: Settings) -> None:
    site.state_dir.mkdir(parents=True)
    own = new_secret()
    (site.state_dir / "callback-secret").write_text(f" {own}\n\n")
    assert secrets(with_secret(site)[0]) == [own]


def test_the_first_of_two_wins(site: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = new_secret()

    def link(draft: Path, path: Path) -> None:
        path.write_text(theirs)  # another process was quicker
        raise FileExistsError(17, "File exists")

    monkeypatch.setattr(os, "link", link)
    made, path = with_secret(site)
    assert secrets(made) == [theirs]
    assert path is not None
    assert [each.name for each in path.parent.iterdir()] == ["callback-secret"]


def test_all_that_start_at_once_agree(site: Settings, tmp_path: Path) -> None:
    go = tmp_path / "go"
    script = (
        "import pathlib, sys\n"
        "from umbel_cli.secret_file import with_secret\n"
        "from umbel_config.settings import load_settings\n"
        f"site, go = load_settings(state_dir={str(site.state_dir)!r}), pathlib.Path({str(go)!r})\n"
        "print('here', flush=True)\n"
        "while not go.exists(): pass\n"
        "print(with_secret(site)[0].callback_secrets[0].get_secret_value())\n"
    )
    command = [sys.executable, "-c", script]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for each in started:
        assert each.stdout is not None
        assert each.stdout.readline() == "here\n"
    go.touch()
    told = {each.communicate(timeout=60)[0].strip() for each in started}
    assert [each.returncode for each in started] == [0] * 4
    assert told == set(secrets(with_secret(site)[0]))


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    site = load_settings(state_dir=tmp_path / "state" / "umbel")
    with pytest.raises(ConfigError, match="Set callback_secrets, or another state_dir") as caught:
        with_secret(site)
    assert str(site.state_dir / "callback-secret") in str(caught.value)


def test_a_file_that_cannot_be_read_is_told(site: Settings) -> None:
    (site.state_dir / "callback-secret").mkdir(parents=True)
    with pytest.raises(ConfigError, match="Is a directory"):
        with_secret(site)


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "callback-secret"
    path.write_text("\n")
    with pytest.raises(ConfigError, match=f"{path} is empty"):
        with_secret(load_settings(state_dir=tmp_path))
