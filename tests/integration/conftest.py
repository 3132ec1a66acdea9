"""A model that is registered, a client for it, and rows that fit it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import redis

from umbel import Client
from umbel_batching.census import lane_statuses
from umbel_config.settings import Settings

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import MakeSettings, Register


@pytest.fixture
def site(settings: MakeSettings, register: Register) -> Settings:
    """Settings of a namespace in which model ``affine`` is registered: ``2 x + 1``."""
    made = settings(allowed_modules=("umbel_test_handlers",))
    register(made)
    return made


@pytest.fixture
def client(site: Settings) -> Iterator[Client]:
    with Client(settings=site) as made:
        yield made


@pytest.fixture
def rows() -> Callable[..., Any]:
    """Makes rows ``[n, 4]``, all different."""

    def make(count: int) -> Any:
        return np.arange(4 * count, dtype=np.float32).reshape(count, 4) + 100

    return make


@pytest.fixture
def queued(store_redis: redis.Redis, namespace: str) -> Callable[[], int]:
    """Counts all jobs of the test's namespace that were ever queued."""
    return lambda: sum(lane.submitted for lane in lane_statuses(store_redis, namespace))


@pytest.fixture
def gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: object
) -> Iterator[Callable[[], None]]:
    """Holds all forwards until it is called, at the latest before ``serve`` ends."""
    path = tmp_path / "gate"
    monkeypatch.setenv("TEST_GATE", str(path))
    yield path.touch
    path.touch()
