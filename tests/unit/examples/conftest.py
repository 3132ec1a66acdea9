"""The MiniLM folder and handlers, made once for all tests of the examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from umbel_examples import minilm_folder
from umbel_examples.minilm import MiniLM
from umbel_examples.parts import as_they_come

Embed = Callable[[MiniLM, Sequence[str]], NDArray[np.float32]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Several threads of torch wait for each other when the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder, as the command writes it."""
    return minilm_folder.write(tmp_path_factory.mktemp("examples") / "minilm")


@pytest.fixture(scope="session")
def handler(folder: Path) -> MiniLM:
    """The handler, as a worker makes it."""
    return MiniLM(folder, "cpu")


@pytest.fixture(scope="session")
def unsorted(folder: Path) -> MiniLM:
    """A handler that pads every row to the longest of its batch."""
    return MiniLM(folder, "cpu", plan=as_they_come)


@pytest.fixture(scope="session")
def embed() -> Embed:
    """Runs a handler's three steps."""

    def run(handler: MiniLM, texts: Sequence[str]) -> NDArray[np.float32]:
        return handler.postprocess(handler.forward(handler.preprocess(texts)))

    return run
