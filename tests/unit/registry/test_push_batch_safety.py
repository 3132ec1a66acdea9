"""Pushing refuses a model whose rows depend on each other, or records that this was accepted."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from umbel_config.errors import BatchUnsafe, ModelFolderInvalid
from umbel_registry import ArtifactStore, Catalog, Manifest, export_model, push

BATCH_NORM = r"BatchNorm in a module that was exported in training mode \(call model\.eval\(\)"


def net() -> torch.nn.Sequential:
    """In training mode, as new modules are."""
    torch.manual_seed(2)
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6))


def write(folder: Path, format_: str, weights: str) -> Path:
    content = {
        "name": "norm",
        "format": format_,
        "weights": weights,
        "inputs": {"x": {"dtype": "float32", "shape": [4]}},
        "outputs": {"y": {"dtype": "float32", "shape": [6]}},
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """As ``torch.export`` writes it where nobody called ``eval``."""
    rows = torch.export.Dim("rows", min=1)
    program = torch.export.export(net(), (torch.rand(2, 4),), dynamic_shapes=({0: rows},))
    program.example_inputs = None
    torch.export.save(program, tmp_path / "model.pt2")
    return write(tmp_path, "torch_export", "model.pt2")


@pytest.fixture
def traced(tmp_path: Path) -> Path:
    trace: Any = torch.jit.trace
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its end, and of tracing in training mode: rightly so
        script = trace(net(), torch.rand(2, 4), check_trace=False)
        script.save(str(tmp_path / "model.pt"))
    return write(tmp_path, "torchscript", "model.pt")


def test_batch_norm_in_training_mode_is_refused_or_its_variance_recorded(
    exported: Path, catalog: Catalog, store: ArtifactStore
) -> None:
    with pytest.raises(BatchUnsafe, match=rf"row \d of output 'y', .*{BATCH_NORM}") as refused:
        push(exported, catalog=catalog, store=store)
    assert catalog.names() == []
    assert list(store.manifests()) == []
    manifest = push(exported, catalog=catalog, store=store, accept_batch_variance=True)
    assert manifest.batch_variance == pytest.approx(refused.value.variance)
    assert manifest.batch_variance is not None
    assert manifest.batch_variance > 0.1
    assert catalog.get("norm", "1") == store.find("norm", "1") == manifest


def test_a_trace_of_it_is_refused(traced: Path, catalog: Catalog, store: ArtifactStore) -> None:
    with pytest.raises(BatchUnsafe, match=BATCH_NORM):
        push(traced, catalog=catalog, store=store)


def test_export_model_puts_it_into_evaluation_mode(
    tmp_path: Path, catalog: Catalog, store: ArtifactStore
) -> None:
    module = net()
    folder = export_model(module, torch.zeros(4), tmp_path, name="norm")
    assert module.training
    manifest = push(folder, catalog=catalog, store=store, accept_batch_variance=True)
    assert manifest.batch_variance is None
    assert b"batch_variance" not in manifest.to_json()


HANDLER = """
class Handler:
    def __init__(self, folder, device):
        pass

    def forward(self, batch):
        return [{result} for row in batch]{cut}
"""


@pytest.fixture
def handler_push(
    tmp_path: Path, plugin: Callable[[str], str], catalog: Catalog, store: ArtifactStore
) -> Callable[..., Manifest]:
    """Pushes a handler whose rows are ``result``, an expression of ``row`` and ``batch``."""

    def make(result: str, cut: str = "", **options: Any) -> Manifest:
        module = plugin(HANDLER.format(result=result, cut=cut))
        content = {
            "name": "norm",
            "format": "handler",
            "handler": f"{module}:Handler",
            "inputs": {"x": {"dtype": "float32"}},
            "outputs": {"y": {"dtype": "float32"}},
        }
        (tmp_path / "model.yaml").write_text(yaml.safe_dump(content))
        modules = [module]
        return push(tmp_path, catalog=catalog, store=store, allowed_modules=modules, **options)

    return make


def test_what_was_accepted_is_no_part_of_the_content(
    handler_push: Callable[..., Manifest], catalog: Catalog
) -> None:
    first = handler_push("row / sum(batch)", accept_batch_variance=True)
    raw = json.loads(first.to_json())
    assert raw.pop("batch_variance") == first.batch_variance
    again = Manifest.from_json(json.dumps(raw), "here")
    assert (again.digest, again.batch_variance) == (first.digest, None)
    with pytest.raises(BatchUnsafe):
        handler_push("row / sum(batch)")
    assert catalog.list() == [first]


def test_content_that_is_known_keeps_the_manifest_it_has(
    handler_push: Callable[..., Manifest], catalog: Catalog, store: ArtifactStore, tmp_path: Path
) -> None:
    first = handler_push("row / (sum(batch) if globals().get('spoilt') else 1)")
    module = (first.handler or "").partition(":")[0]
    sys.modules[module].__dict__["spoilt"] = True
    known: dict[str, Any] = {"catalog": catalog, "store": store, "allowed_modules": [module]}
    with pytest.raises(BatchUnsafe):
        push(tmp_path, **known)
    for version in (None, "1"):
        assert push(tmp_path, version=version, accept_batch_variance=True, **known) == first
    other = push(tmp_path, version="2", accept_batch_variance=True, **known)
    assert other.batch_variance
    assert other.digest == first.digest


def test_chance_can_be_accepted_but_not_lost_or_mixed_up_rows(
    handler_push: Callable[..., Manifest],
) -> None:
    chance = "__import__('random').random()"
    with pytest.raises(BatchUnsafe, match="run twice, differs by"):
        handler_push(chance)
    assert handler_push(chance, accept_batch_variance=True).batch_variance
    with pytest.raises(ModelFolderInvalid, match="2 rows for a batch of 3"):
        handler_push("row", cut="[:2]", accept_batch_variance=True)
    with pytest.raises(BatchUnsafe, match="Rows must come back in the order of the inputs"):
        handler_push("row", cut="[::-1]", accept_batch_variance=True)
