"""The folder of the embedded Redis: private, short enough for a socket, never read wrongly."""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

import pytest

from umbel_config.embedded_folder import (
    Running,
    log_tail,
    new_socket,
    open_log,
    private_folder,
    read_note,
    refuse_newer_data,
    remove_note,
    server_arguments,
    write_note,
)
from umbel_config.errors import ConfigError
from umbel_config.server_binary import ServerBinary


def test_folder_is_for_this_user_only(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir(mode=0o755)
    assert stat.S_IMODE(private_folder(tmp_path).stat().st_mode) == 0o700


def test_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "redis").write_text("in the way")
    with pytest.raises(ConfigError, match="UMBEL_STATE_DIR"):
        private_folder(tmp_path)


def test_socket_lies_in_the_folder_when_its_path_fits(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as short:
        assert new_socket(Path(short)) == Path(short) / "redis.sock"


def test_long_path_gets_a_private_short_folder(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    socket = new_socket(folder)
    assert len(str(socket)) <= 100
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    folder.mkdir()
    write_note(folder, Running(socket=str(socket), pid=1, run_id="r"))
    remove_note(folder)
    assert not socket.parent.exists()


def test_no_short_folder_at_all_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("long" * 30)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(ConfigError, match="too long for a Unix socket"):
        new_socket(long)
    assert list(long.iterdir()) == []


def test_note_comes_back_as_written(tmp_path: Path) -> None:
    running = Running(socket="/s p/redis.sock", pid=7, run_id="abc")
    write_note(tmp_path, running)
    assert read_note(tmp_path) == running
    assert running.url == "unix:///s%20p/redis.sock"


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"pid": 1}', '{"x": 1}'])
def test_damaged_note_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "server.json").write_text(text)
    assert read_note(tmp_path) is None
    remove_note(tmp_path)
    assert not (tmp_path / "server.json").exists()


def test_missing_note_counts_as_none(tmp_path: Path) -> None:
    assert read_note(tmp_path) is None


def test_old_server_does_not_start_empty_beside_newer_data(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").mkdir()
    with pytest.raises(ConfigError, match="Redis 7 or newer"):
        refuse_newer_data(tmp_path, ServerBinary(Path("redis-server"), (6, 2, 14)))
    refuse_newer_data(tmp_path, ServerBinary(Path("redis-server"), (7, 0)))


def test_server_keeps_every_write_and_opens_no_port(tmp_path: Path) -> None:
    words = server_arguments(tmp_path, tmp_path / "redis.sock")
    given = dict(zip(words[::2], words[1::2], strict=True))
    assert given["--port"] == "0"
    assert given["--appendonly"] == "yes"
    assert given["--maxmemory-policy"] == "noeviction"


def test_long_log_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "redis.log").write_text("x" * (2**20 + 1))
    assert not open_log(tmp_path).exists()
    assert (tmp_path / "redis.log.1").stat().st_size > 2**20


def test_log_tail_is_short(tmp_path: Path) -> None:
    assert log_tail(tmp_path) == "(no log)"
    open_log(tmp_path).write_text("\n".join(f"line {n}" for n in range(100)))
    assert log_tail(tmp_path).splitlines()[0] == "line 88"
