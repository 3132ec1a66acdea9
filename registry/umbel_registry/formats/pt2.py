"""Loads ``torch.export`` archives (``.pt2``), after proof that nothing in them is executed.

``torch.export.load`` can unpickle (sample inputs, subclassed weights, custom objects), load native
code (AOTInductor) and evaluate text. The archive is therefore read first, by the same reader that
torch uses, and refused unless it holds only what ``torch.export.save`` writes for plain tensors.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from typing import TYPE_CHECKING, Any

import torch
from torch.export.passes import move_to_device_pass
from torch.export.pt2_archive import PT2ArchiveReader

from umbel_config.errors import ModelLoadFailed
from umbel_registry.formats.pt2_text import Refused, check_program

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_MEMBER = re.compile(
    r"(archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)"
    r"|models/model\.json"
    r"|data/sample_inputs/model\.pt"
    r"|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json))\Z"
)
_PAYLOAD = re.compile(r"(weight|tensor)_\d+\Z")


def load_torch_export(path: Path, device: str) -> Callable[..., Any]:
    """Loads an exported program.

    Args:
        path: a ``.pt2`` file.
        device: ``cpu``, ``cuda`` or ``cuda:0``.

    Raises:
        ModelLoadFailed: the archive is damaged, or holds more than plain tensors and operators.
    """
    try:
        _inspect(path)
        program = torch.export.load(path)
        if device != "cpu" or _elsewhere(program):
            program = move_to_device_pass(program, device)
        return program.module()
    except Refused as problem:
        raise ModelLoadFailed(
            f"{path} is refused: {problem}. Export it again with umbel_registry.export_model()."
        ) from None
    except Exception as error:
        raise ModelLoadFailed(
            f"{path} cannot be loaded as a torch.export archive: {type(error).__name__}: "
            f"{str(error)[:500]}. It may be damaged or come from another torch version "
            f"(this is {torch.__version__})."
        ) from error


def _elsewhere(program: torch.export.ExportedProgram) -> bool:
    return any(tensor.device.type != "cpu" for tensor in program.state_dict.values())


def _inspect(path: Path) -> None:
    # torch falls back to an older layout, found by a file "version" at the top of the archive,
    # whose parts it unpickles.
    with zipfile.ZipFile(path) as archive:
        if "version" in archive.namelist():
            raise Refused("it has the layout of torch 2.7 and older, which torch unpickles")
    with PT2ArchiveReader(str(path)) as reader:
        for member in reader.get_file_names():
            if not _MEMBER.match(member):
                raise Refused(f"it holds {member[:80]!r}, which could run code when loaded")
        for kind in ("weights", "constants"):
            config = reader.read_bytes(f"data/{kind}/model_{kind}_config.json")
            _check_payload(json.loads(config))
        _check_samples(reader.read_bytes("data/sample_inputs/model.pt"))
        check_program(json.loads(reader.read_bytes("models/model.json")))


def _check_payload(config: dict[str, Any]) -> None:
    for entry in config["config"].values():
        if entry["use_pickle"] or not _PAYLOAD.match(entry["path_name"]):
            raise Refused("it holds a pickled weight or constant")


def _check_samples(content: bytes) -> None:
    # torch tries this same call first, and unpickles without limits where it fails.
    if not content:
        return
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:
        raise Refused("its sample inputs are pickled objects, not plain tensors") from error
