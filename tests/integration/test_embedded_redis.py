"""The embedded Redis in real processes: found, shared, stopped with its owner, recovered."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from umbel_config.connect import check_server, connect
from umbel_config.embedded import EmbeddedRedis, attach, find_store
from umbel_config.embedded_folder import Running, server_arguments, socket_url, write_note
from umbel_config.errors import StoreUnavailable
from umbel_config.file_lock import FileLock, is_locked
from umbel_config.server_binary import find_server

pytestmark = pytest.mark.chaos

#: Starts or attaches, says what it got, and holds on until its stdin is closed.
HOLDER = """
import json, os, signal, sys
from pathlib import Path
from umbel_config.embedded import EmbeddedRedis
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored, by inheritance, where tests run under nohup
store = EmbeddedRedis.start(Path(sys.argv[1]))
forked = os.fork() if "fork" in sys.argv else -1
if forked:
    print(json.dumps([store.url, store.pid, store.owned]), flush=True)
sys.stdin.read()
if forked == 0:
    os._exit(0)
if "close" in sys.argv:
    store.close()
"""


class Holder:
    """A process that holds an embedded Redis."""

    def __init__(self, state_dir: Path, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(state_dir), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> tuple[str, int, bool]:
        assert self.process.stdout is not None
        url, pid, owned = json.loads(self.process.stdout.readline())
        return url, pid, owned

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait()

    def end(self) -> None:
        """Lets it run to its normal end."""
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate()


@pytest.fixture
def hold() -> Iterator[Callable[..., Holder]]:
    holders: list[Holder] = []

    def make(state_dir: Path, *words: str) -> Holder:
        holders.append(Holder(state_dir, *words))
        return holders[-1]

    yield make
    for holder in holders:
        holder.end()


@pytest.fixture
def server_gone(tmp_path: Path, wait_until: Any) -> Callable[[], None]:
    """Waits until no server process works in the folder any more."""

    def wait() -> None:
        lock = tmp_path / "redis" / "server.lock"
        wait_until(lambda: not is_locked(lock), "the server has ended")

    return wait


def put(url: str, key: str, value: str) -> None:
    with connect(url) as client:
        client.set(key, value)


def get(url: str, key: str) -> bytes | None:
    with connect(url) as client:
        value = client.get(key)
    assert value is None or isinstance(value, bytes)
    return value


def test_server_is_private_persistent_and_suitable(tmp_path: Path) -> None:
    with EmbeddedRedis.start(tmp_path) as store, connect(store.url) as client:
        assert store.owned
        assert store.url.startswith("unix://")
        assert check_server(client).warnings == ()
        wanted = {"port": "0", "appendfsync": "everysec", "aof-load-truncated": "yes", "save": ""}
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
        # Ctrl-C in a terminal goes to the foreground group, which the server must not be in.
        assert os.getpgid(store.pid) != os.getpgrp()
    assert attach(tmp_path) is None
    assert not (tmp_path / "redis" / "redis.sock").exists()


def test_data_outlives_a_clean_stop(tmp_path: Path) -> None:
    with EmbeddedRedis.start(tmp_path) as store:
        put(store.url, "kept", "yes")
    with EmbeddedRedis.start(tmp_path) as store:
        assert get(store.url, "kept") == b"yes"


def test_close_twice_is_harmless(tmp_path: Path) -> None:
    store = EmbeddedRedis.start(tmp_path)
    store.close()
    store.close()


def test_second_process_finds_it_and_leaves_it(tmp_path: Path, hold: Callable[..., Holder]) -> None:
    url, pid, owned = hold(tmp_path).ready()
    assert owned
    assert attach(tmp_path) == url
    with EmbeddedRedis.start(tmp_path) as store:
        assert (store.url, store.pid, store.owned) == (url, pid, False)
    assert attach(tmp_path) == url


def test_of_processes_that_start_at_once_one_becomes_the_owner(
    tmp_path: Path, hold: Callable[..., Holder]
) -> None:
    holders = [hold(tmp_path) for _ in range(4)]
    answers = [holder.ready() for holder in holders]
    assert len({(url, pid) for url, pid, _ in answers}) == 1
    assert sum(owned for _, _, owned in answers) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_killed_owner_takes_the_server_with_it(
    tmp_path: Path, hold: Callable[..., Holder], server_gone: Callable[[], None], number: int
) -> None:
    holder = hold(tmp_path)
    url, _, _ = holder.ready()
    put(url, "kept", "yes")
    holder.kill(number)
    assert attach(tmp_path) is None
    server_gone()
    with EmbeddedRedis.start(tmp_path) as store:
        assert get(store.url, "kept") == b"yes"


@pytest.mark.parametrize("words", [(), ("close",)])
def test_ended_owner_takes_the_server_with_it(
    tmp_path: Path,
    hold: Callable[..., Holder],
    server_gone: Callable[[], None],
    words: tuple[str, ...],
) -> None:
    holder = hold(tmp_path, *words)
    holder.ready()
    holder.end()
    assert holder.process.returncode == 0
    server_gone()
    assert attach(tmp_path) is None


def test_forked_child_does_not_keep_the_server_alive(
    tmp_path: Path, hold: Callable[..., Holder], server_gone: Callable[[], None]
) -> None:
    holder = hold(tmp_path, "fork")
    holder.ready()
    holder.kill()
    server_gone()
    assert attach(tmp_path) is None


def test_successor_does_not_wait_for_the_dead(tmp_path: Path, hold: Callable[..., Holder]) -> None:
    holder = hold(tmp_path)
    url, pid, _ = holder.ready()
    put(url, "kept", "yes")
    holder.kill()
    with EmbeddedRedis.start(tmp_path) as store:
        assert store.owned
        assert store.pid != pid
        assert get(store.url, "kept") == b"yes"


def test_killed_server_is_started_again_with_its_data(tmp_path: Path) -> None:
    store = EmbeddedRedis.start(tmp_path)
    put(store.url, "kept", "yes")
    os.kill(store.pid, signal.SIGKILL)
    store.close()
    with EmbeddedRedis.start(tmp_path) as again:
        assert get(again.url, "kept") == b"yes"


def test_crash_of_server_and_owner_leaves_nothing_in_the_way(
    tmp_path: Path, hold: Callable[..., Holder], server_gone: Callable[[], None]
) -> None:
    holder = hold(tmp_path)
    url, pid, _ = holder.ready()
    put(url, "kept", "yes")
    os.kill(pid, signal.SIGKILL)
    holder.kill()
    server_gone()
    assert (tmp_path / "redis" / "redis.sock").is_socket()
    assert (tmp_path / "redis" / "server.json").is_file()
    assert attach(tmp_path) is None
    with EmbeddedRedis.start(tmp_path) as store:
        assert get(store.url, "kept") == b"yes"


def test_dead_server_of_a_living_owner_is_explained(
    tmp_path: Path, hold: Callable[..., Holder], wait_until: Any
) -> None:
    _, pid, _ = hold(tmp_path).ready()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: attach(tmp_path) is None, "the server has ended")
    with pytest.raises(StoreUnavailable, match="Another process owns"):
        EmbeddedRedis.start(tmp_path, timeout_s=0.2)


def test_orphan_without_its_watcher_is_replaced(tmp_path: Path, wait_until: Any) -> None:
    folder = tmp_path / "redis"
    folder.mkdir(mode=0o700)
    lock = FileLock.take(folder / "server.lock")
    assert lock is not None
    socket = folder / "redis.sock"
    command = [str(find_server().path), *server_arguments(folder, socket)]
    with subprocess.Popen(command, pass_fds=[lock.fd], stdout=subprocess.DEVNULL) as orphan:
        lock.release()
        wait_until(socket.exists, "the orphan listens")
        put(socket_url(socket), "kept", "yes")
        with connect(socket_url(socket)) as client:
            run_id = client.info("server")["run_id"]
        write_note(folder, Running(socket=str(socket), pid=orphan.pid, run_id=run_id))
        with EmbeddedRedis.start(tmp_path) as store:
            assert orphan.wait() == 0
            assert get(store.url, "kept") == b"yes"


def append_only_file(state_dir: Path) -> Path:
    folder = state_dir / "redis"
    (found,) = [*folder.glob("appendonly.aof"), *folder.glob("appendonlydir/*.incr.aof")]
    return found


def test_torn_last_write_is_dropped_and_the_rest_kept(tmp_path: Path) -> None:
    with EmbeddedRedis.start(tmp_path) as store:
        put(store.url, "kept", "yes")
    with append_only_file(tmp_path).open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$4\r\nto")
    with EmbeddedRedis.start(tmp_path) as store:
        assert get(store.url, "kept") == b"yes"


def test_damaged_data_stops_the_start_with_the_log_and_frees_the_folder(tmp_path: Path) -> None:
    with EmbeddedRedis.start(tmp_path) as store:
        put(store.url, "kept", "yes")
    path = append_only_file(tmp_path)
    good = path.read_bytes()
    path.write_bytes(b"nonsense\r\n" + good)
    with pytest.raises(StoreUnavailable, match="Bad file format"):
        EmbeddedRedis.start(tmp_path)
    path.write_bytes(good)
    with EmbeddedRedis.start(tmp_path) as store:
        assert get(store.url, "kept") == b"yes"


def test_long_path_uses_a_short_private_socket(tmp_path: Path) -> None:
    state_dir = tmp_path / ("long" * 25)
    with EmbeddedRedis.start(state_dir) as store:
        socket = Path(store.url.removeprefix("unix://"))
        assert not socket.is_relative_to(state_dir)
        assert attach(state_dir) == store.url
        put(store.url, "kept", "yes")
    assert not socket.parent.exists()


@pytest.fixture
def fake_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a shell script on the PATH that claims to be a Redis server."""

    def make(body: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        script = folder / "redis-server"
        script.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec echo v=7.2.4\n{body}\n')
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.defpath}")

    return make


def test_server_that_ends_at_once_is_reported_with_its_log(
    tmp_path: Path, fake_program: Callable[[str], None]
) -> None:
    fake_program("echo no luck today; exit 1")
    with pytest.raises(StoreUnavailable, match=r"ended at once(.|\n)*no luck today"):
        EmbeddedRedis.start(tmp_path)


def test_server_that_never_answers_is_given_up_and_stopped(
    tmp_path: Path, fake_program: Callable[[str], None], server_gone: Callable[[], None]
) -> None:
    fake_program("exec tail -f /dev/null")
    with pytest.raises(StoreUnavailable, match="did not answer in time"):
        EmbeddedRedis.start(tmp_path, timeout_s=0.3)
    server_gone()


def test_server_that_ignores_the_signal_is_killed(
    tmp_path: Path, fake_program: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("umbel_config.embedded._STOP_TIMEOUT_S", 0.2)
    fake_program("trap '' TERM; while :; do tail -f /dev/null; done")
    with pytest.raises(StoreUnavailable, match="did not answer in time"):
        EmbeddedRedis.start(tmp_path, timeout_s=0.3)


def test_find_store_takes_what_is_given_else_what_runs(tmp_path: Path, settings: Any) -> None:
    given = settings()
    assert find_store(given) is given
    unset = settings(state_dir=tmp_path).model_copy(update={"redis_url": None})
    with pytest.raises(StoreUnavailable, match="umbel up"):
        find_store(unset)
    with EmbeddedRedis.start(tmp_path) as store:
        found = find_store(unset)
        assert found.redis_url is not None
        assert found.redis_url.get_secret_value() == store.url
