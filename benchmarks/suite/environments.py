"""A virtual environment for each contestant, from pinned requirements, made where it is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from faults.page import ROOT

FOLDER: Final = ROOT / ".bench"
REQUIREMENTS: Final = Path(__file__).parent / "contestants"
_STAMP: Final = "requirements.installed"


class NotInstalled(Exception):
    """An environment could not be made; the sentence ends with what pip said."""


def python_of(name: str) -> Path:
    """The interpreter of a contestant's environment; it is made, or made anew, if need be.

    Args:
        name: of the file of requirements, without its ending.

    Raises:
        NotInstalled: it cannot be made.
    """
    folder, requirements = FOLDER / name, REQUIREMENTS / f"{name}.txt"
    python = folder / "bin" / "python"
    if is_made(name):
        return python
    # `--clear`, so that nothing is left of a half-made or an older one.
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    install = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    _run([*install, "-r", str(requirements)])
    (folder / _STAMP).write_text(requirements.read_text(encoding="utf-8"), encoding="utf-8")
    return python


def is_made(name: str) -> bool:
    """Whether a contestant's environment is there, with what is required now.

    Args:
        name: of the file of requirements, without its ending.
    """
    wanted = (REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8")
    stamp = FOLDER / name / _STAMP
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted


def version_of(python: Path, package: str) -> str:
    """The version of a package in an environment.

    Args:
        python: its interpreter.
        package: as it is installed.
    """
    script = f"from importlib.metadata import version; print(version({package!r}))"
    return _run([str(python), "-c", script]).strip()


def _run(command: list[str]) -> str:
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(command, capture_output=True, check=True, env=variables, text=True)
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or ["nothing was said"]
        raise NotInstalled(said[-1]) from None
    except OSError as error:
        raise NotInstalled(str(error)) from None
    return done.stdout
