"""The embedded Redis: one private, persistent server per state folder, stopped with its owner."""

from __future__ import annotations

import atexit
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from pydantic import SecretStr
from redis.exceptions import RedisError

from umbel_config.connect import connect
from umbel_config.embedded_folder import (
    Running,
    log_tail,
    new_socket,
    open_log,
    private_folder,
    read_note,
    refuse_newer_data,
    remove_note,
    remove_socket,
    server_arguments,
    socket_url,
    write_note,
)
from umbel_config.errors import StoreUnavailable
from umbel_config.file_lock import FileLock, is_locked
from umbel_config.guarded_process import GuardedProcess
from umbel_config.server_binary import find_server
from umbel_config.settings import Settings

#: Held by the owner from before the start until after the stop of its server.
_OWNER_LOCK: Final = "owner.lock"
#: Held by the server itself, so that never two servers write to one append-only file.
_SERVER_LOCK: Final = "server.lock"
_STOP_TIMEOUT_S: Final = 15.0
_ORPHAN_GRACE_S: Final = 3.0
_POLL_S: Final = 0.02


class EmbeddedRedis:
    """A Redis server of our own, or the one that another process already runs for the folder.

    It listens on a Unix socket only, in a folder that only this user can enter, and keeps every
    write in an append-only file. Whoever started it owns it: it ends with that process, even with
    ``kill -9``, and the next start continues with the same data.

    Attributes:
        url: where it answers, ``unix://…``.
        owned: whether this object started it, and its ``close`` stops it.
        pid: process id of the server.
    """

    def __init__(
        self, running: Running, *, folder: Path, hold: tuple[GuardedProcess, FileLock] | None = None
    ) -> None:
        self.url = running.url
        self.pid = running.pid
        self.owned = hold is not None
        self._folder = folder
        self._hold = hold

    @classmethod
    def start(cls, state_dir: Path, *, timeout_s: float = 60.0) -> Self:
        """Starts the folder's server, or attaches to it where it runs already.

        Of processes that start at once exactly one becomes the owner; the others wait for it.

        Args:
            state_dir: the setting of that name; the server lives in ``redis/`` below it.
            timeout_s: patience until the server answers, loading its data included.

        Raises:
            ConfigError: there is no server program, or the folder cannot be used.
            StoreUnavailable: the server does not start; the message ends with its log.
        """
        folder = private_folder(state_dir)
        deadline = time.monotonic() + timeout_s
        while True:
            lock = FileLock.take(folder / _OWNER_LOCK)
            if lock is not None:
                return cls._own(folder, lock, deadline)
            running = _attached(folder)
            if running is not None:
                return cls(running, folder=folder)
            if time.monotonic() >= deadline:
                raise StoreUnavailable(
                    f"Another process owns the embedded Redis in {folder}, but that Redis does not "
                    "answer. Stop that process, or set UMBEL_STATE_DIR to another folder."
                )
            time.sleep(_POLL_S)

    @classmethod
    def _own(cls, folder: Path, lock: FileLock, deadline: float) -> Self:
        try:
            process, running = _launch(folder, deadline)
        except BaseException:
            lock.release()
            raise
        embedded = cls(running, folder=folder, hold=(process, lock))
        atexit.register(embedded.close)
        return embedded

    def close(self) -> None:
        """Stops the server if it is ours, its last writes on disk; a second call does nothing."""
        if self._hold is None:
            return
        (process, lock), self._hold = self._hold, None
        atexit.unregister(self.close)
        process.close(timeout_s=_STOP_TIMEOUT_S)
        if lock.held:
            remove_note(self._folder)
            lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def attach(state_dir: Path) -> str | None:
    """The URL of the embedded Redis that some process runs for this folder, or ``None``.

    Args:
        state_dir: the setting of that name.
    """
    running = _attached(state_dir.expanduser().absolute() / "redis")
    return running.url if running else None


def find_store(settings: Settings) -> Settings:
    """Settings whose ``redis_url`` is set: as given, else that of a running embedded Redis.

    Args:
        settings: as loaded.

    Raises:
        StoreUnavailable: no URL is set and no embedded Redis runs.
    """
    if settings.redis_url is not None:
        return settings
    url = attach(settings.state_dir)
    if url is None:
        raise StoreUnavailable(
            "No Redis to talk to: redis_url is not set, and no embedded Redis runs under "
            f"{settings.state_dir}. Start one with `umbel up`, or set UMBEL_REDIS_URL."
        )
    return settings.model_copy(update={"redis_url": SecretStr(url)})


def _attached(folder: Path) -> Running | None:
    """The folder's server, if its owner lives and it is the one that answers."""
    running = read_note(folder)
    # Without its owner a server may still answer, but it is about to stop.
    if running is None or not is_locked(folder / _OWNER_LOCK):
        return None
    facts = _facts(running.url)
    return running if facts.get("run_id") == running.run_id else None


def _launch(folder: Path, deadline: float) -> tuple[GuardedProcess, Running]:
    server = find_server()
    refuse_newer_data(folder, server)
    alive = _outlive_predecessor(folder, deadline)
    try:
        remove_note(folder)
        socket = new_socket(folder)
        command = [str(server.path), *server_arguments(folder, socket)]
        process = GuardedProcess(command, log=open_log(folder), keep_open=[alive.fd])
    finally:
        alive.release()
    try:
        running = _until_ready(process, folder, socket, deadline)
        write_note(folder, running)
    except BaseException:
        process.close(timeout_s=_STOP_TIMEOUT_S)
        remove_socket(socket)
        raise
    return process, running


def _outlive_predecessor(folder: Path, deadline: float) -> FileLock:
    """Waits until the server of a dead owner is gone, and asks it to go where nobody else did."""
    path = folder / _SERVER_LOCK
    lock = FileLock.take(path, timeout_s=_ORPHAN_GRACE_S)
    if lock is None:
        orphan = read_note(folder)
        if orphan is not None and _facts(orphan.url).get("run_id") == orphan.run_id:
            _shut_down(orphan.url)
        lock = FileLock.take(path, timeout_s=max(0.0, deadline - time.monotonic()))
    if lock is None:
        raise StoreUnavailable(
            f"An earlier Redis server still works in {folder} and does not stop. End the process "
            "redis-server that uses this folder, then try again."
        )
    return lock


def _until_ready(process: GuardedProcess, folder: Path, socket: Path, deadline: float) -> Running:
    while process.alive() and time.monotonic() < deadline:
        facts = _facts(socket_url(socket)) if socket.exists() else {}
        if facts.get("process_id") == process.pid:
            return Running(socket=str(socket), pid=process.pid, run_id=facts["run_id"])
        time.sleep(_POLL_S)
    happened = "did not answer in time" if process.alive() else "ended at once"
    raise StoreUnavailable(
        f"The embedded Redis in {folder} {happened}. The end of its log:\n{log_tail(folder)}"
    )


def _facts(url: str) -> dict[str, Any]:
    """What the server says of itself; empty while it does not answer or still loads its data."""
    client = connect(url, retries=0)
    try:
        client.ping()
        return client.info("server")
    except RedisError:
        return {}
    finally:
        client.close()


def _shut_down(url: str) -> None:
    client = connect(url, retries=0)
    try:
        client.shutdown()
    except RedisError:
        # A server that stops closes the connection instead of answering; the lock tells the rest.
        return
    finally:
        client.close()
