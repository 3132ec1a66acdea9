"""Reading a model folder: its ``model.yaml`` and the files that it names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from umbel_config.errors import ModelFolderInvalid
from umbel_registry.manifest import ModelFile, explain
from umbel_registry.paths import hash_files

if TYPE_CHECKING:
    from umbel_registry.paths import FileInfo

MODEL_FILE = "model.yaml"


def read_model_file(folder: Path | str) -> ModelFile:
    """Reads ``model.yaml`` of a model folder.

    Args:
        folder: the model folder.

    Raises:
        ModelFolderInvalid: it is missing, no YAML mapping, or a key is unknown or wrong.
    """
    path = Path(folder) / MODEL_FILE
    try:
        return ModelFile.model_validate(_mapping(path))
    except ValidationError as error:
        raise ModelFolderInvalid(f"{path}: {explain(error)}.") from None


def _mapping(path: Path) -> dict[Any, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ModelFolderInvalid(
            f"{path} does not exist. A model folder holds a model.yaml beside its weights; "
            "export_model() writes one."
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" (line {where.line + 1})" if where is not None else ""
        raise ModelFolderInvalid(f"{path} cannot be read as YAML{line}.") from error
    if not isinstance(content, dict):
        raise ModelFolderInvalid(f"{path}: expected a mapping with name, format, inputs, outputs.")
    return content


def read_files(folder: Path, model: ModelFile) -> dict[str, FileInfo]:
    """Size and SHA-256 of every file that belongs to the model.

    Args:
        folder: the model folder.
        model: its ``model.yaml``.

    Raises:
        ModelFolderInvalid: a named file is missing or lies outside.
    """
    named = ([model.weights] if model.weights else []) + list(model.files)
    return hash_files(folder, named)
