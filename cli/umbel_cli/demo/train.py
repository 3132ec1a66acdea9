"""The demo's model: a small CNN trained on scikit-learn's scanned digits, exported for umbel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from umbel_registry import export_model

SEED = 0
EPOCHS = 25
#: Share of the 1797 digits that the model never sees while it is trained.
HELD_OUT = 0.2
_BATCH, _BRIGHTEST = 64, 16.0


@dataclass(frozen=True, slots=True)
class Digits:
    """Scanned digits, 8 x 8 pixels of 0 to 16, flattened.

    Attributes:
        train: pixels ``[n, 64]`` to learn from.
        train_labels: what they show ``[n]``.
        held_out: pixels ``[m, 64]`` the model never sees.
        labels: what those show ``[m]``.
    """

    train: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    held_out: NDArray[np.float32]
    labels: NDArray[np.int64]


class DigitNet(nn.Module):
    """Two convolutions and two linear layers: 64 pixels in, 10 logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(32 * 4 * 4, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits ``[n, 10]`` of pixels ``[n, 64]``."""
        images = pixels.reshape(-1, 1, 8, 8) / _BRIGHTEST
        logits: torch.Tensor = self.layers(images)
        return logits


def load_data() -> Digits:
    """The digits, split the same way every time."""
    bunch: Any = load_digits()
    parts = train_test_split(
        bunch.data.astype(np.float32),
        bunch.target.astype(np.int64),
        test_size=HELD_OUT,
        random_state=SEED,
        stratify=bunch.target,
    )
    train, held_out, train_labels, labels = parts
    return Digits(train, train_labels, held_out, labels)


def train(digits: Digits) -> DigitNet:
    """A network trained on the training part: the same one every time on one machine."""
    # One thread: several wait for each other whenever another process is busy, as our worker is.
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    net = DigitNet()
    pixels = torch.from_numpy(digits.train)
    labels = torch.from_numpy(digits.train_labels)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(pixels)), _BATCH):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(pixels[rows]), labels[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return net.eval()


def accuracy(net: DigitNet, digits: Digits) -> float:
    """Share of the held-out digits that the network reads right, without umbel."""
    with torch.inference_mode():
        guesses = net(torch.from_numpy(digits.held_out)).argmax(dim=1).numpy()
    return float((guesses == digits.labels).mean())


def export(net: DigitNet, digits: Digits, folder: Path, *, name: str, max_batch_size: int) -> Path:
    """Writes the network as a model folder, with two real digits as its examples.

    Args:
        net: the trained network.
        digits: where the examples come from.
        folder: to write to.
        name: of the model.
        max_batch_size: most digits that one forward reads.
    """
    export_model(
        net,
        digits.held_out[0],
        folder,
        name=name,
        output_names=("logits",),
        batching={"max_batch_size": max_batch_size, "max_wait_ms": 5},
        description="Reads scanned digits of 8 x 8 pixels (umbel demo)",
    )
    path = folder / "model.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["examples"] = [row.astype(int).tolist() for row in digits.held_out[:2]]
    path.write_text(
        yaml.safe_dump(content, sort_keys=False, default_flow_style=None), encoding="utf-8"
    )
    return folder
