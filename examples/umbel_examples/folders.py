"""Writes ``model.yaml`` by hand, checked the way a push will check it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from umbel_config.errors import ModelFolderInvalid
from umbel_registry import ModelFile

MODEL_FILE = "model.yaml"


def write_model_file(folder: Path, content: dict[str, Any]) -> Path:
    """Writes the description of a model into its folder.

    Args:
        folder: it exists.
        content: the keys of ``model.yaml``, in the order to be written.

    Returns:
        The folder.

    Raises:
        ModelFolderInvalid: a key is unknown or wrong.
    """
    try:
        ModelFile.model_validate(content)
    except ValidationError as error:
        raise ModelFolderInvalid(f"{folder / MODEL_FILE} would be wrong: {error}") from None
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, allow_unicode=True)
    (folder / MODEL_FILE).write_text(text, encoding="utf-8")
    return folder
