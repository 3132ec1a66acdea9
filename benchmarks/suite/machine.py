"""What a run was measured on and with: hardware, and the versions of everything."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from umbel_config.server_binary import find_server


def hardware() -> dict[str, str]:
    """Processor, cores, memory and system, as far as the system tells."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": f"{cores}, shared by everything",
        "memory": f"{memory / 2**30:.0f} GiB",
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
    }


def versions() -> dict[str, str]:
    """What umbel itself runs with."""
    return {
        "umbel": version("umbel"),
        "Python": platform.python_version(),
        "torch": f"{torch.__version__.partition('+')[0]}, on the CPU",
        "Redis server": ".".join(map(str, find_server().version)),
        "redis-py": version("redis"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
