"""Trains the digits network in some seconds and writes its model folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_model
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn import functional

from umbel_examples.digits_cnn import DigitsCnn, make
from umbel_examples.folders import write_model_file

WEIGHTS = "weights.safetensors"
SEED = 0
#: Share of the 1797 digits that the network never sees while it is trained.
HELD_OUT = 0.2
_EPOCHS, _BATCH, _PEAK_RATE = 20, 64, 4e-3


@dataclass(frozen=True, slots=True)
class Digits:
    """Scanned digits of scikit-learn, 8 x 8 pixels of 0 to 16, flattened.

    Attributes:
        pixels: ``[n, 64]`` to learn from.
        labels: what they show, ``[n]``.
        held_out: pixels ``[m, 64]`` to test with.
        answers: what those show, ``[m]``.
    """

    pixels: NDArray[np.float32]
    labels: NDArray[np.int64]
    held_out: NDArray[np.float32]
    answers: NDArray[np.int64]


def load_data() -> Digits:
    """The digits, split the same way every time."""
    bunch: Any = load_digits()
    pixels, held_out, labels, answers = train_test_split(
        bunch.data.astype(np.float32),
        bunch.target.astype(np.int64),
        test_size=HELD_OUT,
        random_state=SEED,
        stratify=bunch.target,
    )
    return Digits(pixels, labels, held_out, answers)


def train(digits: Digits) -> DigitsCnn:
    """A trained network, in evaluation mode; torch's own random numbers go on undisturbed.

    Args:
        digits: of which it sees those to learn from only.
    """
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        net = make()
        pixels, labels = torch.from_numpy(digits.pixels), torch.from_numpy(digits.labels)
        optimizer = torch.optim.Adam(net.parameters())
        steps = _EPOCHS * -(-len(pixels) // _BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _PEAK_RATE, total_steps=steps)
        for _ in range(_EPOCHS):
            for rows in torch.split(torch.randperm(len(pixels)), _BATCH):
                optimizer.zero_grad()
                loss = functional.cross_entropy(net(pixels[rows]), labels[rows])
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
    return net.eval()


@contextmanager
def _one_thread() -> Iterator[None]:
    # Several wait for each other whenever another process is busy: seconds became a minute.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def accuracy(logits: NDArray[Any], digits: Digits) -> float:
    """Share of the held-out digits that were read right.

    Args:
        logits: of the held-out digits, ``[m, 10]``.
        digits: which know the answers.
    """
    return float((logits.argmax(axis=1) == digits.answers).mean())


def write(folder: Path) -> float:
    """Trains the network and writes its folder; files of an earlier run are replaced.

    Args:
        folder: made if missing.

    Returns:
        The accuracy on held-out digits.

    Raises:
        OSError: the folder cannot be written.
    """
    digits = load_data()
    net = train(digits)
    with torch.inference_mode():
        logits = net(torch.from_numpy(digits.held_out)).numpy()
    folder.mkdir(parents=True, exist_ok=True)
    save_model(net, str(folder / WEIGHTS))
    write_model_file(
        folder,
        {
            "name": "digits-cnn",
            "description": "Reads scanned digits of 8 x 8 pixels, trained on scikit-learn's",
            "format": "safetensors",
            "factory": "umbel_examples.digits_cnn:make",
            "weights": WEIGHTS,
            "inputs": {"pixels": {"dtype": "float32", "shape": [64]}},
            "outputs": {"logits": {"dtype": "float32", "shape": [10]}},
            "batching": {"max_batch_size": 64, "max_wait_ms": 5},
            "examples": [row.astype(int).tolist() for row in digits.held_out[:3]],
        },
    )
    return accuracy(logits, digits)
