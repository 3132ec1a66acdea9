"""Importing factories and handlers, from modules that the operator allows and no others."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from umbel_config.errors import ModelLoadFailed, ModelUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable


def import_allowed(reference: str, allowed_modules: Iterable[str]) -> Any:
    """Imports ``package.module:attribute``.

    Args:
        reference: what ``model.yaml`` names.
        allowed_modules: module names; each allows itself and everything below it.

    Raises:
        ModelUnavailable: the module is not allowed or not installed here.
        ModelLoadFailed: it fails when it is imported, or lacks the attribute.
    """
    module, _, attribute = reference.partition(":")
    if not any(module == name or module.startswith(f"{name}.") for name in allowed_modules if name):
        raise ModelUnavailable(
            f"{reference} is not imported, because its module is not allowed here. If you trust "
            f"it, add {module!r} to the setting allowed_modules (UMBEL_ALLOWED_MODULES)."
        )
    try:
        return getattr(importlib.import_module(module), attribute)
    except AttributeError:
        raise ModelLoadFailed(f"Module {module!r} has no {attribute!r}.") from None
    except ImportError as error:
        raise ModelUnavailable(
            f"Module {module!r} cannot be imported: {type(error).__name__}: {error}. "
            "Is it installed where the workers run?"
        ) from error
    except Exception as error:
        raise ModelLoadFailed(
            f"Module {module!r} cannot be imported: {type(error).__name__}: {error}."
        ) from error
