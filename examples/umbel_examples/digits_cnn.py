"""A small convolutional network that reads scanned digits, and the factory that umbel calls."""

from __future__ import annotations

import torch
from torch import nn

_BRIGHTEST = 16.0


class DigitsCnn(nn.Module):
    """Three convolutions and a linear layer: 64 pixels of 0 to 16 in, 10 logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(32 * 4 * 4, 10),
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """The logits of each digit.

        Args:
            pixels: float32 ``[n, 64]``, each 0 to 16.

        Returns:
            float32 ``[n, 10]``.
        """
        logits: torch.Tensor = self.layers(pixels.reshape(-1, 1, 8, 8) / _BRIGHTEST)
        return logits


def make() -> DigitsCnn:
    """The network without its weights, which umbel then loads into it."""
    return DigitsCnn()
