"""Real models on a drainer whose budget is too small for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from umbel import Client
from umbel_config.connect import connect
from umbel_config.settings import Settings
from umbel_registry import ArtifactStore, Catalog, export_model, push

if TYPE_CHECKING:
    from tests.conftest import MakeSettings, Serving

#: Models of 8 MB each, and room for two.
NAMES, WIDTH, BUDGET_MB = ("ash", "elm", "oak"), 1448, 21


@pytest.fixture
def site(settings: MakeSettings, tmp_path: Path) -> tuple[Settings, dict[str, torch.nn.Module]]:
    """Three registered models with weights of their own."""
    given = settings(max_loaded_mb=BUDGET_MB, device="cpu")
    modules: dict[str, torch.nn.Module] = {}
    with connect(given) as client:
        for seed, name in enumerate(NAMES):
            torch.manual_seed(seed)
            modules[name] = torch.nn.Linear(WIDTH, WIDTH).eval()
            folder = tmp_path / name
            form: Any = "torchscript" if seed else "torch_export"
            export_model(modules[name], torch.zeros(WIDTH), folder, name=name, format=form)
            catalog = Catalog(client, given.namespace)
            push(folder, catalog=catalog, store=ArtifactStore(given.artifacts))
    return given, modules


@pytest.fixture
def client(site: tuple[Settings, dict[str, torch.nn.Module]]) -> Iterator[Client]:
    with Client(settings=site[0]) as made:
        yield made


def test_models_come_and_go_within_the_budget_and_answer_right(
    site: tuple[Settings, dict[str, torch.nn.Module]],
    client: Client,
    serve: Callable[..., Serving],
) -> None:
    given, modules = site
    models = serve(given).drainer.models
    rows = np.random.default_rng(0).standard_normal((4, WIDTH)).astype(np.float32)
    for name in (*NAMES, *NAMES, "oak", "ash"):
        outputs = np.stack([job.result(timeout=30) for job in client.submit_many(name, rows)])
        right = modules[name](torch.from_numpy(rows)).detach().numpy()
        np.testing.assert_allclose(outputs, right, atol=1e-4)
        held = models.holdings()
        assert f"{name}@1" in {each.name for each in held if each.state == "ready"}
        assert len(held) <= 2
        assert all(each.mb > 7.9 for each in held), "the weights alone are 8 MB"
        assert sum(each.mb for each in held) <= BUDGET_MB or len(held) == 1
