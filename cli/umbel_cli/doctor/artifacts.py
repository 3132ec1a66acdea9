"""Whether the files of every registered version are where workers will look for them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from umbel_cli.doctor.findings import Finding, counted, listed, ok, problem, warning
from umbel_cli.render import size_text
from umbel_config.errors import ArtifactTampered, ModelError
from umbel_registry import Manifest

if TYPE_CHECKING:
    from umbel_registry import ArtifactStore

_CHECK = "models.artifacts"
_ADVICE = (
    "Restore the files, or push the model again. If it was pushed on another machine, "
    "give both one artifact_root"
)


def judge_artifacts(manifests: Sequence[Manifest], root: str, *, deep: bool) -> Iterator[Finding]:
    """Whether the artifact root has what is registered, and nothing that is not.

    Args:
        manifests: all registered versions.
        root: the artifact root.
        deep: whether to read every file and compare its SHA-256; else only sizes are compared.

    Raises:
        ModuleNotFoundError: fsspec, or its driver for this root, is not installed here.
    """
    from umbel_registry import ArtifactStore  # noqa: PLC0415  (needs fsspec)

    try:
        store = ArtifactStore(root)
        faults = [fault for each in manifests for fault in _faults(store, each, deep=deep)]
        forgotten = _forgotten(store, manifests)
    except (OSError, ValueError) as error:
        yield problem(
            _CHECK,
            f"The artifact root {root} cannot be read ({type(error).__name__})",
            "Check that artifact_root is right, and that this user may read it",
        )
        return
    yield _verdict(manifests, root, faults, deep=deep)
    if forgotten:
        yield warning(
            "models.registered",
            f"Stored but not registered: {listed(forgotten)}",
            "Redis may have lost its data. Push the models again: what is stored keeps its version",
        )


def _verdict(manifests: Sequence[Manifest], root: str, faults: list[str], *, deep: bool) -> Finding:
    if faults:
        return problem(_CHECK, f"In {root}: {listed(faults)}", _ADVICE)
    if not manifests:
        return ok(_CHECK, f"No model is registered yet; the artifact root is {root}")
    how = "SHA-256 compared" if deep else "sizes compared; --deep reads the files"
    total = sum(file.bytes for each in manifests for file in each.files.values())
    return ok(_CHECK, f"{counted(len(manifests), 'version')}, {size_text(total)} in {root} ({how})")


def _faults(store: ArtifactStore, manifest: Manifest, *, deep: bool) -> Iterator[str]:
    """What is wrong with the files of one version, in words without a full stop."""
    name = f"{manifest.name} {manifest.version}"
    try:
        stored = store.find(manifest.name, manifest.version)
    except ArtifactTampered:
        yield f"the manifest of {name} is damaged"
        return
    if stored is None:
        yield f"{name} is missing"
        return
    if stored.digest != manifest.digest:
        yield f"{name} is another model than the one registered"
        return
    wrong = list(_wrong_sizes(store, manifest))
    yield from (f"{path} of {name} {what}" for path, what in wrong)
    if deep and not wrong and not _intact(store, manifest):
        yield f"a file of {name} was changed (SHA-256)"


def _wrong_sizes(store: ArtifactStore, manifest: Manifest) -> Iterator[tuple[str, str]]:
    for path, size in store.sizes(manifest).items():
        wanted = manifest.files[path].bytes
        if size is None:
            yield path, "is missing"
        elif size != wanted:
            yield path, f"has {size:,} bytes instead of {wanted:,}"


def _intact(store: ArtifactStore, manifest: Manifest) -> bool:
    with tempfile.TemporaryDirectory(prefix="umbel-doctor-") as folder:
        try:
            store.fetch(manifest, Path(folder))
        except ModelError:
            return False
    return True


def _forgotten(store: ArtifactStore, manifests: Sequence[Manifest]) -> list[str]:
    """Versions that lie in the root but are not registered, as ``name version``."""
    known = {(each.name, each.version) for each in manifests}
    places = (place.rsplit("/", 3)[1:3] for place in store.places())
    return sorted(f"{name} {version}" for name, version in places if (name, version) not in known)
