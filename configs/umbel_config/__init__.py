"""Settings, errors and Redis connections: the ground floor of umbel.

Names are loaded when they are first used: importing this package costs nothing. The function
``connect`` is not among them, because a module bears that name: import it from there.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from umbel_config.connect import (
        MAX_BLOCK_S,
        ServerInfo,
        celery_broker_url,
        check_server,
        check_server_async,
        connect_async,
        translate_errors,
    )
    from umbel_config.embedded import EmbeddedRedis, attach, find_store
    from umbel_config.errors import ConfigError, UmbelError
    from umbel_config.settings import Settings, environment, load_settings, mask_url

__all__ = [
    "MAX_BLOCK_S",
    "ConfigError",
    "EmbeddedRedis",
    "ServerInfo",
    "Settings",
    "UmbelError",
    "attach",
    "celery_broker_url",
    "check_server",
    "check_server_async",
    "connect_async",
    "environment",
    "find_store",
    "load_settings",
    "mask_url",
    "translate_errors",
]

_HOMES = {
    "connect": (
        "MAX_BLOCK_S",
        "ServerInfo",
        "celery_broker_url",
        "check_server",
        "check_server_async",
        "connect_async",
        "translate_errors",
    ),
    "embedded": ("EmbeddedRedis", "attach", "find_store"),
    "errors": ("ConfigError", "UmbelError"),
    "settings": ("Settings", "environment", "load_settings", "mask_url"),
}


def __getattr__(name: str) -> Any:
    home = next((module for module, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
