"""Loads TorchScript; its reader knows TorchScript types only and never runs Python."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch

from umbel_config.errors import ModelLoadFailed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def load_torchscript(path: Path, device: str) -> Callable[..., Any]:
    """Loads a TorchScript file and puts it into evaluation mode.

    Args:
        path: what ``torch.jit.save`` wrote.
        device: ``cpu``, ``cuda`` or ``cuda:0``.

    Raises:
        ModelLoadFailed: the file is no TorchScript, or is damaged.
    """
    try:
        with warnings.catch_warnings():
            # torch announces the end of TorchScript on every load; the README passes that on.
            warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
            load: Any = torch.jit.load
            module: torch.nn.Module = load(str(path), map_location=device)
        return module.eval()
    except Exception as error:
        raise ModelLoadFailed(
            f"{path} cannot be loaded as TorchScript: {type(error).__name__}: {str(error)[:500]}"
        ) from error
