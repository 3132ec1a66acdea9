"""The house in order: components, wheel, docstrings, lengths and what must not be written here."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).resolve().parents[2]
COMPONENTS = {
    "batching": "umbel_batching",
    "callbacks": "umbel_callbacks",
    "cli": "umbel_cli",
    "configs": "umbel_config",
    "examples": "umbel_examples",
    "producer": "umbel",
    "registry": "umbel_registry",
    "worker": "umbel_worker",
}
TEXT = (".lua", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml")

# None of these expressions matches its own source.
FORBIDDEN = {
    "a path of one machine": r"(?<![\w.])/(?:root|work|home/\w+|Users/\w+)/\w",
    "work left for later": r"\b(?:TO[D]O|FIX[M]E|XX[X])\b",
    "a private key": r"BEGIN [A-Z ]*PRIVATE [K]EY",
}
FORBIDDEN_IN_PACKAGES = {
    "unpickling, which runs what it reads": r"\bpickle\.load[s]?\(",
    "unsafe weights": r"weights_only=[F]alse",
    "running a shell line": r"shell=[T]rue|\bos\.[s]ystem\(",
}
FORBIDDEN_IN_TESTS = {
    "a silent skip": r"pytest\.(?:mark\.)?(?:skip|xfail|importorskip)[i(\n]|unittest\.[s]kip",
    "a sleep": r"\b(?:time|asyncio)\.[s]leep\(|from time import .*[s]leep",
}
#: Polls on behalf of all tests.
MAY_SLEEP = "tests/conftest.py"


@lru_cache(maxsize=1)
def tracked() -> tuple[str, ...]:
    """Every file of the project: in git, or on its way there."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=True,
        cwd=ROOT,
        text=True,
    ).stdout
    names = sorted(set(listing.split("\0")) - {""})
    return tuple(name for name in names if (ROOT / name).is_file())


@lru_cache(maxsize=1)
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def modules() -> list[str]:
    packages = tuple(f"{folder}/{package}/" for folder, package in COMPONENTS.items())
    return [name for name in tracked() if name.startswith(packages) and name.endswith(".py")]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_both_lists_of_the_build_name_every_component() -> None:
    build = pyproject()["tool"]["hatch"]["build"]
    assert build["dev-mode-dirs"] == sorted(COMPONENTS)
    assert sorted(build["targets"]["wheel"]["packages"]) == sorted(
        f"{folder}/{package}" for folder, package in COMPONENTS.items()
    )


def test_other_tools_know_every_component_too() -> None:
    tools = pyproject()["tool"]
    assert tools["ruff"]["src"] == sorted(COMPONENTS)
    assert set(COMPONENTS) <= set(tools["mypy"]["mypy_path"])
    assert set(COMPONENTS) < set(tools["mypy"]["files"])
    assert sorted(tools["importlinter"]["root_packages"]) == sorted(COMPONENTS.values())
    layers = tools["importlinter"]["contracts"][0]["layers"]
    assert sorted(layers) == sorted(COMPONENTS.values())


def test_no_component_is_forgotten() -> None:
    found = {Path(name).parts[0] for name in tracked() if Path(name).name == "py.typed"}
    assert found == set(COMPONENTS)


@pytest.mark.parametrize("folder", sorted(COMPONENTS))
def test_component_holds_one_package_and_its_readme(folder: str) -> None:
    inits = [name for name in tracked() if re.fullmatch(rf"{folder}/[^/]+/__init__\.py", name)]
    assert inits == [f"{folder}/{COMPONENTS[folder]}/__init__.py"]
    assert f"{folder}/README.md" in tracked()
    assert f"{folder}/{COMPONENTS[folder]}/py.typed" in tracked()


@pytest.mark.parametrize("folder", sorted(COMPONENTS))
def test_readme_fits_on_a_screen(folder: str) -> None:
    assert len(read(f"{folder}/README.md").splitlines()) <= 70


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    builder = WheelBuilder(str(ROOT))
    folder = tmp_path_factory.mktemp("wheel")
    (path,) = builder.build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_wheel_holds_every_file_of_the_packages_and_no_other(wheel: zipfile.ZipFile) -> None:
    wanted = {
        name.removeprefix(f"{folder}/")
        for folder, package in COMPONENTS.items()
        for name in tracked()
        if name.startswith(f"{folder}/{package}/")
    }
    built = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert built == wanted
    assert {f"{package}/py.typed" for package in COMPONENTS.values()} <= built
    assert any(name.endswith(".lua") for name in built)


def test_wheel_carries_licence_readme_and_command(wheel: zipfile.ZipFile) -> None:
    info = {name.partition(".dist-info/")[2]: name for name in wheel.namelist()}
    assert wheel.read(info["licenses/LICENSE"]) == (ROOT / "LICENSE").read_bytes()
    assert "umbel = umbel_cli.main:run" in wheel.read(info["entry_points.txt"]).decode()
    metadata = wheel.read(info["METADATA"]).decode()
    assert metadata.endswith(read("README.md"))


def test_producer_needs_neither_torch_nor_celery() -> None:
    needed = " ".join(pyproject()["project"]["dependencies"]).lower()
    assert not re.search(r"torch|celery|kombu|scipy|pandas", needed)


@pytest.mark.parametrize("name", modules())
def test_module_opens_with_one_sentence_and_postponed_annotations(name: str) -> None:
    tree = ast.parse(read(name))
    docstring = ast.get_docstring(tree) or ""
    assert docstring.splitlines()[:1], f"{name} has no docstring"
    assert docstring.splitlines()[0].endswith(".")
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    if imports:
        assert isinstance(imports[0], ast.ImportFrom)
        assert imports[0].module == "__future__"


def test_every_module_can_be_imported_by_its_path() -> None:
    names = [
        name.partition("/")[2].removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in modules()
    ]
    script = f"import importlib\nfor name in {names!r}:\n    importlib.import_module(name)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_files_and_functions_are_within_their_budget() -> None:
    answer = subprocess.run(
        [sys.executable, "scripts/check_lengths.py"],
        capture_output=True,
        check=False,
        cwd=ROOT,
        text=True,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize("what", sorted(FORBIDDEN))
def test_nothing_forbidden_is_written_anywhere(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    assert findings(pattern, (name for name in tracked() if name.endswith(TEXT))) == []


@pytest.mark.parametrize("what", sorted(FORBIDDEN_IN_PACKAGES))
def test_nothing_unsafe_is_written_in_the_packages(what: str) -> None:
    pattern = re.compile(FORBIDDEN_IN_PACKAGES[what])
    assert findings(pattern, iter(modules())) == []


@pytest.mark.parametrize("what", sorted(FORBIDDEN_IN_TESTS))
def test_no_test_sleeps_or_is_skipped(what: str) -> None:
    pattern = re.compile(FORBIDDEN_IN_TESTS[what])
    tests = (name for name in tracked() if name.startswith("tests/") and name != MAY_SLEEP)
    assert findings(pattern, tests) == []


def findings(pattern: re.Pattern[str], names: Iterator[str]) -> list[str]:
    return [
        f"{name}:{number}: {line.strip()}"
        for name in names
        if name.endswith(TEXT)
        for number, line in enumerate(read(name).splitlines(), 1)
        if pattern.search(line)
    ]


def test_test_files_have_unique_names_in_their_folder_and_mirror_a_component() -> None:
    folders = {
        Path(name).parts[2]
        for name in tracked()
        if name.startswith("tests/unit/") and len(Path(name).parts) > 3
    }
    known = {*COMPONENTS, *(package.removeprefix("umbel_") for package in COMPONENTS.values())}
    assert folders <= known


def test_licence_is_the_standard_text() -> None:
    text = read("LICENSE")
    assert text.lstrip().startswith("Apache License")
    assert "END OF TERMS AND CONDITIONS" in text


def test_pins_hold_for_every_build_and_name_no_place() -> None:
    lines = [line for line in read("constraints.txt").splitlines() if not line.startswith("#")]
    assert lines == sorted(lines, key=str.lower)
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line), line
    assert "torch==2.13.0" in lines
