"""The manifest: its digest covers what a version does, and its stored form is checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from umbel_config.errors import ArtifactTampered
from umbel_registry import Manifest

Make = Callable[..., tuple[Path, Manifest]]


def test_it_survives_json(make_manifest: Make) -> None:
    _, manifest = make_manifest(description="reads digits", queue="gpu")
    assert Manifest.from_json(manifest.to_json(), "here") == manifest


@pytest.mark.parametrize(
    "change",
    [
        {"queue": "gpu"},
        {"batching": {"max_batch_size": 8}},
        {"inputs": {"x": {"dtype": "float64", "shape": [4]}}},
        {"content": b"other weights"},
        {"weights": "sub/labels.txt"},
    ],
)
def test_what_a_version_does_changes_its_digest(make_manifest: Make, change: Any) -> None:
    assert make_manifest(**change)[1].digest != make_manifest()[1].digest


def test_what_it_is_called_does_not(make_manifest: Make) -> None:
    _, left = make_manifest("1", description="first")
    _, right = make_manifest("2", name="other", examples=[[1, 2, 3, 4]])
    assert left.digest == right.digest


def test_the_order_of_inputs_changes_the_digest(make_manifest: Make) -> None:
    a, b = {"dtype": "float32", "shape": [4]}, {"dtype": "float32", "shape": [4]}
    _, left = make_manifest(inputs={"a": a, "b": b})
    _, right = make_manifest(inputs={"b": b, "a": a})
    assert left.digest != right.digest


@pytest.mark.parametrize(
    ("path", "value"),
    [(("queue",), "gpu"), (("policy", "max_wait_ms"), 9), (("files", "model.pt2", "bytes"), 8)],
)
def test_an_edited_manifest_is_refused(
    make_manifest: Make, path: tuple[str, ...], value: Any
) -> None:
    fields = json.loads(make_manifest()[1].to_json())
    inner = fields
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(ArtifactTampered, match=r"here was changed after it was written"):
        Manifest.from_json(json.dumps(fields), "here")


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"{}", b'{"name": "x"}'])
def test_what_is_no_manifest_is_refused(raw: bytes) -> None:
    with pytest.raises(ArtifactTampered, match="here is not a readable manifest"):
        Manifest.from_json(raw, "here")


def test_a_manifest_cannot_name_files_outside_its_folder(make_manifest: Make) -> None:
    fields = json.loads(make_manifest()[1].to_json())
    fields["files"]["../../escape"] = fields["files"].pop("model.pt2")
    with pytest.raises(ArtifactTampered, match="inside the model folder"):
        Manifest.from_json(json.dumps(fields), "here")
