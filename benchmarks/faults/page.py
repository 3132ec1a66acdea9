"""Writes the table into docs/reliability.md and, short, into the README, between markers."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from faults import table
from faults.processes import HERE
from faults.result import Row
from faults.stage import LEASE_MS
from umbel_config.server_binary import find_server

ROOT = HERE.parent
PAGE, README = ROOT / "docs" / "reliability.md", ROOT / "README.md"
BEGIN, END = "<!-- faults:begin -->", "<!-- faults:end -->"


def write(rows: Sequence[Row], minutes: float) -> None:
    """Renews what stands between the markers of both files.

    Args:
        rows: of all scenarios.
        minutes: that they took.
    """
    told = f"{machine()}; {minutes:.0f} minutes for all rows; leases of {LEASE_MS:,} ms."
    between(PAGE, f"{table.full(rows)}\n\nMeasured with {told}")
    between(README, table.short(rows))


def machine() -> str:
    """What this was measured on, in words."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    version = ".".join(map(str, find_server().version))
    torch_version = torch.__version__.partition("+")[0]
    return (
        f"{cores} cores that everything shares, Redis {version}, "
        f"Python {platform.python_version()}, torch {torch_version} on the CPU"
    )


def between(file: Path, text: str, begin: str = BEGIN, end: str = END) -> None:
    """Replaces what stands between the markers of a file.

    Args:
        file: with both markers.
        text: what shall stand there.
        begin: the marker before it.
        end: the marker behind it.

    Raises:
        ValueError: a marker is missing.
    """
    before, found, rest = file.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{file.name} lacks {begin} or {end}")
    file.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
