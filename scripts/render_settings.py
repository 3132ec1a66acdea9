"""Writes configs/umbel.yaml and the tables of settings in the documents from the settings model.

``--check`` changes nothing and fails when one of them is out of date.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from umbel_config.callback_settings import CallbackSettings
from umbel_config.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
YAML_FILE = ROOT / "configs" / "umbel.yaml"
README = ROOT / "configs" / "README.md"
CALLBACKS = ROOT / "docs" / "callbacks.md"
TABLE_START = "<!-- settings: written by scripts/render_settings.py -->"
TABLE_END = "<!-- end of settings -->"
HEAD = """\
# The settings of umbel, each with its default.
#
# Found as configs/umbel.yaml or umbel.yaml in the working directory, or where UMBEL_CONFIG points.
# An environment variable UMBEL_<NAME> wins over this file, and a flag --<name> over both.
# Written by scripts/render_settings.py from the settings model.
"""
#: Defaults that depend on the user or the machine: shown as a comment, in words.
BY_USER = {"state_dir": "~/.local/state/umbel"}


def main() -> int:
    """Renders or checks all files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, only compare")
    check = parser.parse_args().check
    stale = []
    others = [name for name in Settings.model_fields if name not in CallbackSettings.model_fields]
    rendered = (
        (YAML_FILE, render_yaml([*others, *CallbackSettings.model_fields])),
        (README, render_table(README, others)),
        (CALLBACKS, render_table(CALLBACKS, CallbackSettings.model_fields)),
    )
    for path, text in rendered:
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(str(path.relative_to(ROOT)))
        if not check:
            path.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"{name} {'is out of date: run make settings' if check else 'written'}")
    return 1 if check and stale else 0


def render_yaml(names: Iterable[str]) -> str:
    """The shipped settings file: every setting with its default, under its description."""
    blocks = [HEAD]
    for name, description, default in _settings(names):
        comment = textwrap.fill(description, 96, initial_indent="# ", subsequent_indent="# ")
        mark = "# " if name in BY_USER else ""
        blocks.append(f"{comment}\n{mark}{name}: {_yaml_value(default)}\n")
    return "\n".join(blocks)


def render_table(path: Path, names: Iterable[str]) -> str:
    """A document with its table of settings renewed."""
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(TABLE_START)
    _, _, after = rest.partition(TABLE_END)
    rows = ["| setting | default | what it does |", "|---|---|---|"]
    rows += [
        f"| `{name}` | `{_yaml_value(default)}` | {description.replace('|', chr(92) + '|')} |"
        for name, description, default in _settings(names)
    ]
    return "\n".join([before + TABLE_START, *rows, TABLE_END + after])


def _settings(names: Iterable[str]) -> Iterator[tuple[str, str, Any]]:
    for name in names:
        field = Settings.model_fields[name]
        yield name, field.description or "", BY_USER.get(name, field.default)


def _yaml_value(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=1000)
    return text.removesuffix("...\n").strip().removesuffix("\n...")


if __name__ == "__main__":
    sys.exit(main())
