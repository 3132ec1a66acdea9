"""``python -m umbel_examples``: writes the folder of an example model, ready to be pushed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from umbel_config.errors import UmbelError


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the folder, says what to do with it, and returns the exit status.

    Args:
        arguments: of the command line; default: those of this process.
    """
    given = _parser().parse_args(arguments)
    folder: Path = given.folder
    try:
        _say(given.write(folder))
    except (UmbelError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except ImportError as error:
        sys.stderr.write(f"{error}. Install what is missing with: pip install 'umbel[all,text]'\n")
        return 1
    _say(f"Next:  umbel models push {folder} --allowed-modules umbel_examples")
    _say("Workers need UMBEL_ALLOWED_MODULES=umbel_examples too.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m umbel_examples",
        description="Writes the folder of an example model, ready to be pushed.",
    )
    models = parser.add_subparsers(required=True, metavar="MODEL")
    for name, write, help_ in (
        (
            "minilm",
            _minilm,
            "sentence embeddings, 384 numbers for a text (pip install umbel[text])",
        ),
        ("digits-cnn", _digits_cnn, "reads scanned digits; trained now (pip install umbel[demo])"),
    ):
        model = models.add_parser(name, help=help_, description=help_)
        model.add_argument("folder", type=Path, metavar="FOLDER", help="made if missing")
        model.set_defaults(write=write)
    return parser


# Each example imports what it alone needs.


def _minilm(folder: Path) -> str:
    from umbel_examples.minilm_folder import write  # noqa: PLC0415

    write(folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{folder}: all-MiniLM-L6-v2, {size / 1e6:.0f} MB."


def _digits_cnn(folder: Path) -> str:
    from umbel_examples.digits_folder import write  # noqa: PLC0415

    return f"{folder}: a network that reads {write(folder):.1%} of held-out digits right."


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
