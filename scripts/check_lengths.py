"""Keeps modules and functions short: 400 lines a file, 500 a test file, 40 a function.

A function's docstring is not counted: it is a contract, not code.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_CODE_LINES = 400
MAX_TEST_LINES = 500
MAX_FUNCTION_LINES = 40
SUFFIXES = (".lua", ".py", ".sh")
#: Files that may be longer, each with its own limit and the reason for it.
EXCEPTIONS: dict[str, tuple[int, str]] = {}


def main() -> int:
    """Prints what is too long and returns the exit status."""
    paths = list(_sources())
    problems = [problem for path in paths for problem in check(path)]
    problems += [f"{name}: listed as an exception, but is gone" for name in _stale_exceptions()]
    for problem in problems:
        print(problem)
    print(f"lengths: {len(paths)} files, {len(problems)} too long")
    return 1 if problems else 0


def check(path: Path) -> Iterator[str]:
    """Sentences about what is too long in one file.

    Args:
        path: an absolute path below the project's root.
    """
    name = path.relative_to(ROOT).as_posix()
    text = path.read_text(encoding="utf-8")
    limit = _limit(name)
    lines = len(text.splitlines())
    if lines > limit:
        yield f"{name}: {lines} lines, the limit is {limit}"
    if path.suffix != ".py":
        return
    for node in ast.walk(ast.parse(text, name)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = _body_lines(node)
            if lines > MAX_FUNCTION_LINES:
                yield (
                    f"{name}:{node.lineno}: {node.name} has {lines} lines, "
                    f"the limit is {MAX_FUNCTION_LINES}"
                )


def _limit(name: str) -> int:
    if name in EXCEPTIONS:
        return EXCEPTIONS[name][0]
    return MAX_TEST_LINES if name.startswith("tests/") else MAX_CODE_LINES


def _body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    if ast.get_docstring(node, clean=False) is not None:
        docstring = node.body[0]
        lines -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
    return lines


def _sources() -> Iterator[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=True,
        cwd=ROOT,
        text=True,
    ).stdout
    for name in sorted(set(listing.split("\0"))):
        path = ROOT / name
        if name.endswith(SUFFIXES) and path.is_file():
            yield path


def _stale_exceptions() -> Iterator[str]:
    return (name for name in EXCEPTIONS if not (ROOT / name).is_file())


if __name__ == "__main__":
    sys.exit(main())
