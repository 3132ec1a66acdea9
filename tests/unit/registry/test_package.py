"""The light part of the package stays light."""

from __future__ import annotations

import subprocess
import sys

import pytest

import umbel_registry


def test_importing_it_loads_neither_torch_nor_fsspec() -> None:
    code = (
        "import sys, umbel_registry\n"
        "heavy = {'torch', 'fsspec', 'safetensors', 'celery'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_every_public_name_is_there() -> None:
    assert umbel_registry.__all__ == sorted(umbel_registry.__all__)
    for name in umbel_registry.__all__:
        assert getattr(umbel_registry, name) is not None
        assert name in dir(umbel_registry)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        umbel_registry.nothing  # noqa: B018  (the access is what is tested)
