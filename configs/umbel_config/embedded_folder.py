"""The folder of an embedded Redis: its data, log, socket and the note that says who serves it."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from umbel_config.errors import ConfigError
from umbel_config.server_binary import ServerBinary

#: ``sun_path`` holds 104 bytes on macOS and 108 on Linux, the closing zero included.
_MAX_SOCKET_PATH: Final = 100
_SOCKET_FOLDER: Final = "umbel-redis-"
_NOTE: Final = "server.json"
_LOG: Final = "redis.log"
_MAX_LOG_BYTES: Final = 2**20
_LOG_TAIL: Final = 12
#: Since version 7 the append-only file is a folder of this name, which older servers cannot read.
_MULTI_PART_AOF: Final = "appendonlydir"
_MULTI_PART_SINCE: Final = (7,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """The note ``server.json``: which server serves the folder, and where.

    Attributes:
        socket: path of its Unix socket.
        pid: its process id.
        run_id: the random id that Redis gives each of its lives.
    """

    socket: str
    pid: int
    run_id: str

    @property
    def url(self) -> str:
        """The Redis URL of the socket."""
        return socket_url(Path(self.socket))


def socket_url(socket: Path) -> str:
    """The Redis URL of a Unix socket."""
    return f"unix://{quote(str(socket))}"


def private_folder(state_dir: Path) -> Path:
    """Makes ``redis/`` below the state folder, for this user only.

    Raises:
        ConfigError: it cannot be made, or belongs to another user.
    """
    folder = state_dir.expanduser().absolute() / "redis"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise ConfigError(
            f"The folder of the embedded Redis, {folder}, cannot be used: {error.strerror}. "
            "Set UMBEL_STATE_DIR to a folder of yours, or UMBEL_REDIS_URL to a running Redis."
        ) from None
    return folder


def new_socket(folder: Path) -> Path:
    """A path for the server's socket: in the folder, or in a private short one if that is too long.

    Raises:
        ConfigError: the folder for temporary files has too long a path as well.
    """
    beside = folder / "redis.sock"
    if len(os.fsencode(beside)) <= _MAX_SOCKET_PATH:
        return beside
    short = Path(tempfile.mkdtemp(prefix=_SOCKET_FOLDER)) / "redis.sock"
    if len(os.fsencode(short)) > _MAX_SOCKET_PATH:
        short.parent.rmdir()
        raise ConfigError(
            f"The paths of {folder} and of the folder for temporary files are both too long for a "
            "Unix socket. Set UMBEL_STATE_DIR to a folder with a path of at most 80 characters."
        )
    return short


def remove_socket(socket: Path) -> None:
    """Removes a dead server's socket, and the private folder that was made for it."""
    socket.unlink(missing_ok=True)
    if socket.parent.name.startswith(_SOCKET_FOLDER):
        with contextlib.suppress(OSError):
            socket.parent.rmdir()


def server_arguments(folder: Path, socket: Path) -> list[str]:
    """Command line of a server that keeps every write and listens on the socket only."""
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "aof-load-truncated": "yes",
        # A rewrite takes a core for seconds. The default, 64 MB, is some 60,000 jobs: under load
        # there would always be one.
        "auto-aof-rewrite-min-size": "512mb",
        "rdbcompression": "no",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def refuse_newer_data(folder: Path, server: ServerBinary) -> None:
    """Keeps an old server from starting empty beside data that it cannot read.

    Raises:
        ConfigError: the data was written by Redis 7 or newer and this server is older.
    """
    if (folder / _MULTI_PART_AOF).is_dir() and server.version < _MULTI_PART_SINCE:
        raise ConfigError(
            f"The data in {folder} was written by Redis 7 or newer, and {server.path} is older. "
            "Install Redis 7 or newer, or set UMBEL_STATE_DIR to another folder."
        )


def read_note(folder: Path) -> Running | None:
    """The note about the server, or ``None`` where it is missing or unreadable."""
    try:
        return Running(**json.loads((folder / _NOTE).read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError):
        return None


def write_note(folder: Path, running: Running) -> None:
    """Writes the note in one step: a reader sees the old one or the new one."""
    draft = folder / f"{_NOTE}.new"
    draft.write_text(json.dumps(asdict(running)), encoding="utf-8")
    draft.replace(folder / _NOTE)


def remove_note(folder: Path) -> None:
    """Removes the note and the socket that it names."""
    running = read_note(folder)
    (folder / _NOTE).unlink(missing_ok=True)
    if running is not None:
        remove_socket(Path(running.socket))


def open_log(folder: Path) -> Path:
    """The server's log file; a long one is set aside first."""
    log = folder / _LOG
    if log.exists() and log.stat().st_size > _MAX_LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
    return log


def log_tail(folder: Path) -> str:
    """The last lines of the server's log."""
    try:
        lines = (folder / _LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "(no log)"
    return "\n".join(lines[-_LOG_TAIL:])
