"""The figures of a run as a file that programs can read: docs/growth.json."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from faults.page import ROOT

from growth.values import Dimension, plain
from umbel_config.server_binary import find_server

FILE = ROOT / "docs" / "growth.json"
_PACKAGES = ("umbel", "torch", "celery", "redis", "numpy")


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a run found.

    Attributes:
        machine: what it ran on, by name.
        versions: of the programs, by name.
        dimensions: the figures.
    """

    machine: dict[str, Any]
    versions: dict[str, str]
    dimensions: list[Dimension]

    @classmethod
    def of(cls, dimensions: Sequence[Dimension]) -> Self:
        """Adds what this machine and these programs are.

        Args:
            dimensions: the figures.
        """
        return cls(_machine(), _versions(), list(dimensions))


def save(report: Report, file: Path = FILE) -> None:
    """Writes a report.

    Args:
        report: what to write.
        file: where to.
    """
    told = {"machine": report.machine, "versions": report.versions}
    told["dimensions"] = [plain(dimension) for dimension in report.dimensions]  # type: ignore[assignment]
    file.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def load(file: Path = FILE) -> Report:
    """Reads a report that ``save`` wrote.

    Args:
        file: where it is.
    """
    found = json.loads(file.read_text(encoding="utf-8"))
    dimensions = [Dimension.read(_bare(each)) for each in found["dimensions"]]
    return Report(found["machine"], found["versions"], dimensions)


def joined(old: Report, new: Report) -> Report:
    """A report with some dimensions measured anew.

    Args:
        old: has all of them.
        new: replaces what it has.
    """
    anew = {dimension.key: dimension for dimension in new.dimensions}
    dimensions = [anew.get(dimension.key, dimension) for dimension in old.dimensions]
    return Report(new.machine, new.versions, dimensions)


def _bare(dimension: dict[str, Any]) -> dict[str, Any]:
    """Without the medians, which follow from the samples."""
    for curve in dimension["curves"]:
        for point in curve["points"]:
            point.pop("median", None)
    return dimension


def _machine() -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores": cores,
        "memory_gib": round(pages * size / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _versions() -> dict[str, str]:
    found = {name: version(name).partition("+")[0] for name in _PACKAGES}
    server = ".".join(map(str, find_server().version))
    return {"python": platform.python_version(), "redis-server": server, **found}
