"""What all chaos tests watch: every push, every terminal record, and who holds a lease."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from faults.witness import Witness

from umbel_config.settings import Settings


@pytest.fixture
def witness() -> Iterator[Callable[..., Witness]]:
    """Starts a witness; it ends with the test."""
    made: list[Witness] = []

    def start(settings: Settings) -> Witness:
        made.append(Witness(settings))
        return made[-1]

    yield start
    for one in made:
        one.close()
