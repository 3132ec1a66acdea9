"""``python -m umbel_examples``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from umbel_config.errors import ModelFolderInvalid
from umbel_examples import digits_folder
from umbel_examples.__main__ import main
from umbel_examples.folders import write_model_file
from umbel_registry import read_model_file


def test_minilm_is_written_and_the_next_step_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "deep" / "minilm"
    assert main(["minilm", str(folder)]) == 0
    assert read_model_file(folder).name == "minilm"
    said = capsys.readouterr().out
    assert "91 MB" in said
    assert f"umbel models push {folder} --allowed-modules umbel_examples" in said


def test_accuracy_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digits_folder, "write", lambda folder: 0.98765)
    assert main(["digits-cnn", str(tmp_path)]) == 0
    assert "98.8% of held-out digits" in capsys.readouterr().out


def test_what_goes_wrong_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert main(["minilm", str(tmp_path / "file")]) == 1
    caught = capsys.readouterr()
    assert caught.out == ""
    assert len(caught.err.splitlines()) == 1
    assert str(tmp_path / "file") in caught.err


def test_a_package_that_is_missing_is_named_with_the_extras(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "umbel_examples.digits_folder")
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert main(["digits-cnn", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "sklearn" in said
    assert "pip install 'umbel[all,text]'" in said


@pytest.mark.parametrize("arguments", [[], ["minilm"], ["no-such-model", "folder"]])
def test_wrong_arguments_end_with_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: python -m umbel_examples" in capsys.readouterr().err


def test_wrong_descriptions_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderInvalid, match="no_such_key"):
        write_model_file(tmp_path, {"name": "x", "no_such_key": 1})
    assert not list(tmp_path.iterdir())
