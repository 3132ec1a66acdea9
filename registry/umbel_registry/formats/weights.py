"""Loads safetensors into the module that an allowed factory makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from umbel_config.errors import ModelLoadFailed
from umbel_registry.imports import import_allowed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path


def load_safetensors(
    path: Path, factory: str, device: str, allowed_modules: Iterable[str]
) -> Callable[..., Any]:
    """Makes the module, fills it with the stored weights and puts it into evaluation mode.

    Args:
        path: a safetensors file.
        factory: ``package.module:make``, called without arguments.
        device: ``cpu``, ``cuda`` or ``cuda:0``.
        allowed_modules: where the factory may come from.

    Raises:
        ModelLoadFailed: the factory is not allowed or fails, or the weights do not fit its module.
    """
    make = import_allowed(factory, allowed_modules)
    try:
        module = make()
        if not isinstance(module, torch.nn.Module):
            raise TypeError(f"{factory} returned {type(module).__name__}, not a torch.nn.Module")
        module.load_state_dict(load_file(path), strict=True)
        return module.to(device).eval()
    except Exception as error:
        raise ModelLoadFailed(
            f"{path} cannot be loaded into {factory}: {type(error).__name__}: {str(error)[:500]}"
        ) from error
