"""``umbel models push`` refuses models whose rows depend on each other, unless told not to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

HANDLER = """
class Shares:
    def __init__(self, folder, device):
        pass

    def forward(self, batch):
        return [len(text) / sum(map(len, batch)) for text in batch]
"""


@pytest.fixture
def shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder: the share of each text in its batch."""
    module = "handler_of_shares"
    (tmp_path / f"{module}.py").write_text(HANDLER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("UMBEL_ALLOWED_MODULES", module)
    folder = tmp_path / "shares"
    folder.mkdir()
    content = {
        "name": "shares",
        "format": "handler",
        "handler": f"{module}:Shares",
        "inputs": {"text": {"dtype": "string"}},
        "outputs": {"share": {"dtype": "float64"}},
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(content))
    return folder


def test_a_model_that_is_unsafe_to_batch_is_admitted_with_a_flag_only(
    run_here: Any, shares: Path
) -> None:
    refused = run_here("models", "push", str(shares))
    assert (refused.code, refused.out) == (1, "")
    said = " ".join(refused.err.split())
    assert "Batch safety of shares: row" in said
    assert "of output 'share', alone and in a batch of 8 after other rows, differs by 0." in said
    assert "admit it as it is with --accept-batch-variance" in said
    assert run_here("models", "list", "--json").json == []
    pushed = run_here("models", "push", str(shares), "--accept-batch-variance", "--json").json
    assert 0.5 < pushed["batch_variance"] <= 1
    shown = " ".join(run_here("models", "show", "shares").out.split())
    assert f"admitted: outputs differ by up to {pushed['batch_variance']:.2%}" in shown


def test_other_models_say_nothing_of_it(run_here: Any, register: Any) -> None:
    register("reader")
    assert "batch variance" not in run_here("models", "show", "reader").out
