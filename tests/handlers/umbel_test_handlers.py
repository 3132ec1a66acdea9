"""Models as tests like them: small, deterministic, and failing on demand."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np

#: First values of a row that make trouble.
UNLUCKY, JUNK, NAN, DEADLY, LOUD, QUITTER, WILD = 13.0, 14.0, 15.0, 16.0, 17.0, 18.0, 19.0
#: First values from here on are of tests, not made up for the dry run or to warm up.
REAL = 100.0
_nap = threading.Event()


def _hold() -> None:
    """Waits as long as the environment asks: some milliseconds, or until a gate file exists."""
    _nap.wait(int(os.environ.get("TEST_PAUSE_MS", "0")) / 1000)
    gate = os.environ.get("TEST_GATE")
    while (gate := os.environ.get("TEST_GATE")) and not Path(gate).exists():
        _nap.wait(0.005)


class Affine:
    """Rows of floats to ``2 x + 1``."""

    def __init__(self, folder: Path, device: str) -> None:
        self.forwards = 0

    def forward(self, rows: list[Any]) -> list[Any]:
        self.forwards += 1
        first = {float(row[0]) for row in rows}
        if max(first) >= REAL:
            _hold()
        if UNLUCKY in first:
            raise ValueError("unlucky input")
        if DEADLY in first:
            os.kill(os.getpid(), signal.SIGKILL)
        if QUITTER in first:
            os._exit(7)
        if WILD in first:
            ctypes.string_at(0)
        return [self._one(row) for row in rows]

    def _one(self, row: Any) -> Any:
        out = row * 2 + 1
        if row[0] == JUNK:
            return "junk"
        if row[0] == NAN:
            out[0] = np.nan
        return np.repeat(out, 1_000_000) if row[0] == LOUD else out


class Steep(Affine):
    """Rows of floats to ``3 x + 1``."""

    def _one(self, row: Any) -> Any:
        return row * 3 + 1


class Fussy(Affine):
    """As ``Affine``, but it refuses every row that a test sends."""

    def _one(self, row: Any) -> Any:
        if row[0] >= REAL:
            raise ValueError("not this one")
        return super()._one(row)


class Narrow:
    """Rows as they are; at most ``TEST_ROOM`` of them fit into memory."""

    def __init__(self, folder: Path, device: str) -> None:
        self.device = device

    def forward(self, rows: list[Any]) -> list[Any]:
        if len(rows) > int(os.environ.get("TEST_ROOM", "1000000")):
            raise MemoryError(f"no room for {len(rows)} rows")
        return rows


class Shout:
    """Text to upper case."""

    def __init__(self, folder: Path, device: str) -> None:
        self.device = device

    def forward(self, rows: list[str]) -> list[str]:
        return [row.upper() for row in rows]


class Sum:
    """Two rows of floats to their sum."""

    def __init__(self, folder: Path, device: str) -> None:
        self.device = device

    def forward(self, rows: list[dict[str, Any]]) -> list[Any]:
        return [row["a"] + row["b"] for row in rows]


class Flaky(Affine):
    """As ``Affine``, but it refuses one in twenty of the rows that a test sends, by their hash."""

    def _one(self, row: Any) -> Any:
        if row[0] >= REAL and zlib.crc32(row.tobytes()) % 20 == 0:
            raise ValueError("one in twenty")
        return super()._one(row)


class Sluggish(Affine):
    """As ``Affine``, but each batch that a test sends takes 40 ms longer."""

    def forward(self, rows: list[Any]) -> list[Any]:
        if max(float(row[0]) for row in rows) >= REAL:
            _nap.wait(0.04)
        return super().forward(rows)


class Bomb(Affine):
    """As ``Affine``, but it ends each process that loads it and has ``TEST_FUSE`` set."""

    def __init__(self, folder: Path, device: str) -> None:
        super().__init__(folder, device)
        if os.environ.get("TEST_FUSE"):
            os._exit(9)


class Mine(Affine):
    """As ``Affine``, but it ends each process in which it runs a row that a test sends."""

    def forward(self, rows: list[Any]) -> list[Any]:
        if max(float(row[0]) for row in rows) >= REAL:
            os._exit(8)
        return super().forward(rows)


class Stuck(Affine):
    """As ``Affine``, but it never returns from a row that a test sends."""

    def forward(self, rows: list[Any]) -> list[Any]:
        if max(float(row[0]) for row in rows) >= REAL:
            threading.Event().wait()
        return super().forward(rows)
