"""Models, versions, signatures and artifacts: what umbel runs, and where it is kept.

Importing this package needs neither torch nor fsspec; the names that do are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from umbel_registry.catalog import Catalog
from umbel_registry.collate import collate, example_inputs
from umbel_registry.folder import read_model_file
from umbel_registry.manifest import Manifest, ModelFile
from umbel_registry.resolve import resolve
from umbel_registry.route import Route
from umbel_registry.signature import Signature, TensorSpec
from umbel_registry.traffic import Traffic
from umbel_registry.traffic_control import TrafficControl

if TYPE_CHECKING:
    from umbel_registry.artifacts import ArtifactStore
    from umbel_registry.export import export_model
    from umbel_registry.loading import LoadedModel, WrongRowCount, load_model
    from umbel_registry.push import push

__all__ = [
    "ArtifactStore",
    "Catalog",
    "LoadedModel",
    "Manifest",
    "ModelFile",
    "Route",
    "Signature",
    "TensorSpec",
    "Traffic",
    "TrafficControl",
    "WrongRowCount",
    "collate",
    "example_inputs",
    "export_model",
    "load_model",
    "push",
    "read_model_file",
    "resolve",
]

#: Names that need torch or fsspec, and the module each comes from.
_LAZY = {
    "ArtifactStore": "umbel_registry.artifacts",
    "LoadedModel": "umbel_registry.loading",
    "WrongRowCount": "umbel_registry.loading",
    "export_model": "umbel_registry.export",
    "load_model": "umbel_registry.loading",
    "push": "umbel_registry.push",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
