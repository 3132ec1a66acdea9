"""Folders, stores and catalogs for the registry's tests, and small models to fill them with."""

from __future__ import annotations

import itertools
import pickle
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fakeredis
import pytest
import torch
import yaml

from umbel_batching.policy import BatchPolicy
from umbel_registry import ArtifactStore, Catalog, Manifest, Signature, TensorSpec, export_model
from umbel_registry.manifest import ModelFile, build_manifest
from umbel_registry.paths import hash_file

_numbers = itertools.count()


class TwoByTwo(torch.nn.Module):
    """Two inputs, two named outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"scores": self.linear(left) + right, "best": self.linear(left).argmax(-1)}


class MaskedMean(torch.nn.Module):
    """The mean of token embeddings, where the mask says that there are tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(10, 4)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = self.embed(tokens) * mask.unsqueeze(-1)
        mean: torch.Tensor = hidden.sum(1) / mask.sum(1, keepdim=True)
        return mean


@pytest.fixture
def catalog() -> Catalog:
    return Catalog(fakeredis.FakeRedis(), "test")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


@pytest.fixture
def store(root: Path) -> ArtifactStore:
    return ArtifactStore(root)


@pytest.fixture
def memory_store() -> Iterator[ArtifactStore]:
    url = f"memory://umbel-test-{next(_numbers)}"
    store = ArtifactStore(url)
    yield store
    if store._fs.exists(url):
        store._fs.rm(url, recursive=True)


@pytest.fixture(scope="session")
def linear_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("linear")
    return export_model(torch.nn.Linear(4, 3), torch.zeros(4), folder, name="digits")


@pytest.fixture
def linear_folder(linear_export: Path, tmp_path: Path) -> Path:
    """A folder of its own with a model of 4 floats to 3, exported."""
    return shutil.copytree(linear_export, tmp_path / "linear")


@pytest.fixture(scope="session")
def masked_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_model(
        MaskedMean(),
        [1, 2, 3],
        tmp_path_factory.mktemp("masked"),
        name="mean",
        variable={"tokens": [0]},
        masks={"tokens": "mask"},
    )


@pytest.fixture
def two_by_two() -> torch.nn.Module:
    torch.manual_seed(1)
    return TwoByTwo()


@pytest.fixture
def masked_mean() -> torch.nn.Module:
    return MaskedMean()


@pytest.fixture
def write_model(tmp_path: Path) -> Callable[..., Path]:
    """Writes a model folder; keys given as ``None`` are left out."""

    def write(**changes: Any) -> Path:
        folder = tmp_path / f"model-{next(_numbers)}"
        folder.mkdir()
        (folder / "model.pt2").write_bytes(b"weights")
        content: dict[str, Any] = {
            "name": "digits",
            "format": "torch_export",
            "weights": "model.pt2",
            "inputs": {"pixels": {"dtype": "float32", "shape": [64]}},
            "outputs": {"logits": {"dtype": "float32", "shape": [10]}},
        }
        content = {key: v for key, v in (content | changes).items() if v is not None}
        (folder / "model.yaml").write_text(yaml.safe_dump(content))
        return folder

    return write


@pytest.fixture
def make_manifest(tmp_path: Path) -> Callable[..., tuple[Path, Manifest]]:
    """A folder with one file and a manifest of it; the weights are never loaded."""

    def make(
        version: str = "1", content: bytes = b"weights", name: str = "digits", **changes: Any
    ) -> tuple[Path, Manifest]:
        folder = tmp_path / f"folder-{next(_numbers)}"
        (folder / "sub").mkdir(parents=True)
        (folder / "model.pt2").write_bytes(content)
        (folder / "sub" / "labels.txt").write_bytes(b"cat\ndog\n")
        model = ModelFile.model_validate(
            {
                "name": name,
                "format": "torch_export",
                "weights": "model.pt2",
                "inputs": {"x": TensorSpec(dtype="float32", shape=(4,))},
                "outputs": {"y": TensorSpec(dtype="float32")},
                "batching": BatchPolicy(),
                **changes,
            }
        )
        files = {path: hash_file(folder / path) for path in ("model.pt2", "sub/labels.txt")}
        return folder, build_manifest(model, files, version)

    return make


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Makes source code importable for one test and returns the module's name."""
    made: list[str] = []

    def make(source: str) -> str:
        name = f"plugin_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(tmp_path)
        made.append(name)
        return name

    yield make
    for name in made:
        sys.modules.pop(name, None)


class Bomb:
    """Unpickling it makes a file: proof that something was executed."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "executed"


@pytest.fixture
def bomb(marker: Path) -> Bomb:
    probe = Bomb(marker)
    pickle.loads(pickle.dumps(probe))
    assert marker.exists(), "the bomb must work, or its tests prove nothing"
    marker.unlink()
    return probe


@pytest.fixture
def signature() -> Signature:
    return Signature(
        inputs={"x": TensorSpec(dtype="float32", shape=(4,))},
        outputs={"y": TensorSpec(dtype="float32", shape=(3,))},
    )
