"""The manifest: its digest covers what a version does, and its stored form is checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from umbel_config.errors import ArtifactTampered
from umbel_registry import Manifest, ModelFile
from umbel_registry.manifest import build_manifest

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
        {"output_encoding": "base64"},
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


#: As it was stored before ``output_encoding`` was a key of models.
OLDER = """{"name":"digits","format":"torch_export","weights":"model.pt2","factory":null,
"handler":null,"queue":"umbel","description":"","examples":[],"version":"1","signature":{"inputs":
{"x":{"dtype":"float32","shape":[4],"pad_value":0,"mask":null,"allow_nan":true}},"outputs":{"y":
{"dtype":"float32","shape":[],"pad_value":0,"mask":null,"allow_nan":true}}},"policy":{
"max_batch_size":64,"max_wait_ms":5,"max_queue":100000,"max_queue_bytes":1073741824,"single_flight"
:false,"cache_ttl_s":0,"cache_entries":10000,"cache_bytes":67108864},"files":{"model.pt2":{"sha256"
:"9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c","bytes":7}},"digest":
"fbf5348cc67ad2656d1167c63bc5a2e005ca1fca30c0ea5102d76be874c302dd","created_at":
"2026-11-27T19:47:13.237213Z"}""".replace("\n", "")


def test_an_older_manifest_keeps_its_digest_and_its_bytes() -> None:
    manifest = Manifest.from_json(OLDER, "here")
    assert manifest.output_encoding == "list"
    assert manifest.to_json() == OLDER.encode()


def test_a_new_manifest_of_the_same_content_has_the_same_digest() -> None:
    older = Manifest.from_json(OLDER, "here")
    model = ModelFile(
        name="digits",
        format="torch_export",
        weights="model.pt2",
        inputs=older.signature.inputs,
        outputs=older.signature.outputs,
    )
    again = build_manifest(model, older.files, "1")
    assert again.digest == older.digest


def test_an_output_encoding_is_stored_and_cannot_be_changed(make_manifest: Make) -> None:
    _, manifest = make_manifest(output_encoding="base64")
    raw = manifest.to_json()
    assert Manifest.from_json(raw, "here") == manifest
    with pytest.raises(ArtifactTampered, match="changed after it was written"):
        Manifest.from_json(raw.replace(b'"base64"', b'"list"'), "here")


def test_an_unknown_output_encoding_is_refused(make_manifest: Make) -> None:
    with pytest.raises(ValidationError, match="output_encoding"):
        make_manifest(output_encoding="hex")


def test_a_batch_variance_is_stored_only_where_there_is_one(make_manifest: Make) -> None:
    _, plain = make_manifest()
    assert b"batch_variance" not in plain.to_json()
    admitted = plain.model_copy(update={"batch_variance": 0.25})
    assert b'"batch_variance":0.25' in admitted.to_json()
    assert Manifest.from_json(admitted.to_json(), "here") == admitted
    wrong = admitted.to_json().replace(b"0.25", b"-1")
    with pytest.raises(ArtifactTampered, match="batch_variance"):
        Manifest.from_json(wrong, "here")


def test_an_adaptive_policy_is_part_of_what_a_version_does(make_manifest: Make) -> None:
    batching = {"mode": "adaptive", "latency_objective_ms": 50}
    (_, adaptive), (_, static) = make_manifest(batching=batching), make_manifest()
    assert adaptive.digest != static.digest
    assert Manifest.from_json(adaptive.to_json(), "here").policy.objective_ms == 50
    assert b"latency_objective_ms" not in static.to_json(), "older releases would refuse it"
