"""Examples given to export_model as one row, and as a batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from umbel_config.errors import ModelFolderInvalid
from umbel_registry import export_model, read_model_file


class Pixels(torch.nn.Module):
    """Takes rows of 64 pixels and makes images of them itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(72, 10)
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(pixels.view(-1, 1, 8, 8))
        return logits


def shape_of(folder: Path, module: torch.nn.Module, example: object, **options: bool) -> list[int]:
    export_model(module, example, folder, name="m", **options)  # type: ignore[arg-type]
    (spec,) = read_model_file(folder).inputs.values()
    return list(spec.shape)


@pytest.mark.parametrize(
    ("module", "example", "expected"),
    [
        (torch.nn.Linear(10, 1), np.zeros(10, np.float32), [10]),
        (torch.nn.Linear(10, 10), np.zeros(10, np.float32), [10]),
        (torch.nn.Linear(10, 1), np.zeros((1, 10), np.float32), [10]),
        (torch.nn.Linear(10, 1), np.zeros((7, 10), np.float32), [10]),
        (Pixels(), torch.zeros(64), [64]),
        (Pixels(), torch.zeros(1, 64), [64]),
        (Pixels(), torch.zeros(4, 64), [64]),
        (torch.nn.Conv2d(3, 2, 3), torch.zeros(3, 8, 8), [3, 8, 8]),
        (torch.nn.Conv2d(3, 2, 3), torch.zeros(3, 3, 8, 8), [3, 8, 8]),
    ],
)
def test_a_row_and_a_batch_describe_the_same_model(
    module: torch.nn.Module, example: object, expected: list[int], tmp_path: Path
) -> None:
    assert shape_of(tmp_path, module, example) == expected


def test_whoever_knows_better_says_so(tmp_path: Path) -> None:
    linear, example = torch.nn.Linear(10, 1), torch.zeros(7, 10)
    assert shape_of(tmp_path / "row", linear, example, batched=False) == [7, 10]
    assert shape_of(tmp_path / "batch", linear, example, batched=True) == [10]


def test_an_example_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderInvalid, match="no rows"):
        shape_of(tmp_path, torch.nn.Linear(10, 1), torch.zeros(0, 10), batched=True)
