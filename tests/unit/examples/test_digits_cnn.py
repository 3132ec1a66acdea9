"""The digits network learns to read, and its folder is what was trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import redis
import torch

from umbel_config.errors import ModelUnavailable
from umbel_examples import digits_folder
from umbel_registry import ArtifactStore, Catalog, load_model, push, read_model_file
from umbel_registry.loading import ArrayModel


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The folder of a network, and the accuracy that was reported."""
    folder = tmp_path_factory.mktemp("digits") / "digits-cnn"
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    reported = digits_folder.write(folder)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)
    return folder, reported


def test_loaded_model_reads_held_out_digits_as_well_as_reported(
    trained: tuple[Path, float],
) -> None:
    folder, reported = trained
    model = load_model(folder, read_model_file(folder), "cpu", ("umbel_examples",))
    assert isinstance(model, ArrayModel)
    digits = digits_folder.load_data()
    logits = model.forward({"pixels": torch.from_numpy(digits.held_out)})["logits"].numpy()
    assert digits_folder.accuracy(logits, digits) == reported > 0.97


def test_held_out_digits_were_never_seen() -> None:
    digits = digits_folder.load_data()
    assert len(digits.held_out) == len(digits.answers) == 360
    assert len(digits.pixels) == len(digits.labels) == 1437
    seen = {row.tobytes() for row in digits.pixels}
    assert not any(row.tobytes() in seen for row in digits.held_out)


def test_accuracy_is_the_share_of_right_answers() -> None:
    digits = digits_folder.load_data()
    right = np.eye(10)[digits.answers]
    assert digits_folder.accuracy(right, digits) == 1
    right[:36] = np.eye(10)[(digits.answers[:36] + 1) % 10]
    assert digits_folder.accuracy(right, digits) == pytest.approx(0.9)


def test_folder_can_be_pushed_where_its_factory_is_allowed(
    trained: tuple[Path, float], store_redis: redis.Redis, namespace: str, tmp_path: Path
) -> None:
    catalog, store = Catalog(store_redis, namespace), ArtifactStore(str(tmp_path / "artifacts"))
    with pytest.raises(ModelUnavailable, match="allowed_modules"):
        push(trained[0], catalog=catalog, store=store)
    manifest = push(trained[0], catalog=catalog, store=store, allowed_modules=("umbel_examples",))
    assert list(manifest.files) == ["weights.safetensors"]
