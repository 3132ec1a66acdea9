"""Files of a model folder: paths that stay inside it, their sizes and SHA-256."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from umbel_config.errors import ModelFolderInvalid

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Names that the folder itself uses; a file of a model cannot have them.
RESERVED = frozenset({"model.yaml", "manifest.json"})


class FileInfo(BaseModel):
    """What is recorded of one file.

    Attributes:
        sha256: of its content, in hexadecimal.
        bytes: its size.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


def check_relative(path: str) -> str:
    """The path in its plain form, if it can only lead into its folder.

    Args:
        path: with forward slashes, relative to a folder.

    Raises:
        ValueError: it is empty, absolute, leads upwards or has odd characters.
    """
    parts = PurePosixPath(path)
    if not parts.parts or parts.is_absolute() or ".." in parts.parts:
        raise ValueError("expected a path inside the model folder, relative and without ..")
    if "\\" in path or ":" in path or not path.isprintable():
        raise ValueError("a path has forward slashes, no colon and no control characters")
    if str(parts) in RESERVED:
        raise ValueError(f"{parts} is written by umbel and cannot be a file of the model")
    return str(parts)


def locate(folder: Path, path: str) -> Path:
    """Where a file of the folder lies, symbolic links followed.

    Args:
        folder: the model folder.
        path: relative, as :func:`check_relative` returns it.

    Raises:
        ModelFolderInvalid: it does not exist, or a link leads out of the folder.
    """
    root = folder.resolve()
    target = (root / path).resolve()
    if not target.is_relative_to(root):
        raise ModelFolderInvalid(
            f"{folder / path} is a link that leads out of the model folder; put the file itself in."
        )
    if not target.exists():
        raise ModelFolderInvalid(f"{folder / path} is named in model.yaml but does not exist.")
    return target


def hash_file(path: Path) -> FileInfo:
    """Size and SHA-256 of a file, read once, in pieces.

    Args:
        path: the file.
    """
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        return FileInfo(sha256=sha256, bytes=stream.tell())


def hash_files(folder: Path, paths: Iterable[str]) -> dict[str, FileInfo]:
    """Size and SHA-256 of the files of a model; a folder stands for all files below it.

    Args:
        folder: the model folder.
        paths: relative, files or folders.

    Raises:
        ModelFolderInvalid: one does not exist, or leads out of the folder.
    """
    found: dict[str, FileInfo] = {}
    for path in paths:
        target = locate(folder, path)
        if target.is_dir():
            found |= hash_files(folder, _below(folder, path))
        else:
            found[path] = hash_file(target)
    return found


def _below(folder: Path, path: str) -> list[str]:
    inner = sorted(entry.name for entry in (folder / path).iterdir())
    return [str(PurePosixPath(path) / name) for name in inner]
