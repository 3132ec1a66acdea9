"""What the command line takes for an input and for metadata."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from umbel_cli.inputs import example_of, read_input, read_metadata
from umbel_config.errors import InvalidInput
from umbel_registry import Manifest, Signature


def test_json_text() -> None:
    assert read_input("[0.5, 1]") == [0.5, 1]
    assert read_input('"hello"') == "hello"


def test_files(tmp_path: Path) -> None:
    (tmp_path / "input.json").write_text('{"left": [1], "right": [2]}')
    np.save(tmp_path / "input.npy", np.arange(3, dtype=np.int16))
    assert read_input(f"@{tmp_path}/input.json") == {"left": [1], "right": [2]}
    array = read_input(f"@{tmp_path}/input.npy")
    assert array.dtype == np.int16
    assert array.tolist() == [0, 1, 2]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("[1, 2]\n"))
    assert read_input("-") == [1, 2]


@pytest.mark.parametrize("text", ["hello", "[1, 2", "", "1 2"])
def test_what_is_no_json_is_refused_with_the_ways_to_write_it(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"INPUT is no JSON .*@input\.npy"):
        read_input(text)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "bad.npy").write_bytes(b"not numpy")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name, words in (
        ("missing.json", "No such file"),
        ("bad.json", "is no JSON"),
        ("bad.npy", "cannot be read"),
        ("objects.npy", "cannot be read"),
    ):
        with pytest.raises(InvalidInput, match=words):
            read_input(f"@{tmp_path}/{name}")


def test_metadata_is_json_where_it_can_be() -> None:
    given = read_metadata(["user=7", "tag=blue", "query=a=b", "flag=true"])
    assert given == {"user": 7, "tag": "blue", "query": "a=b", "flag": True}


@pytest.mark.parametrize("word", ["user", "=7", ""])
def test_metadata_without_a_name_is_refused(word: str) -> None:
    with pytest.raises(InvalidInput, match="NAME=VALUE"):
        read_metadata([word])


def test_examples_of_the_model_come_first(signature: Signature) -> None:
    manifest = Manifest(
        name="reader",
        version="1",
        format="torch_export",
        weights="model.pt2",
        signature=signature,
        files={},
        digest="0" * 64,
        created_at=datetime.now(UTC),
    )
    made_up = example_of(manifest)
    assert signature.validate_input(made_up).shape == (3,)
    assert example_of(manifest.model_copy(update={"examples": ([1, 2, 3],)})) == [1, 2, 3]
