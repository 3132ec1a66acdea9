"""Takes a model folder in: check, try out, store the artifact, then make the version known."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from umbel_config.errors import ModelFolderInvalid, VersionExists
from umbel_registry.batch_safety import batch_variance
from umbel_registry.dryrun import dry_run
from umbel_registry.folder import MODEL_FILE, read_files, read_model_file
from umbel_registry.loading import load_model
from umbel_registry.manifest import Manifest, ModelFile, build_manifest, explain
from umbel_registry.versions import next_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from umbel_registry.artifacts import ArtifactStore
    from umbel_registry.catalog import Catalog

#: How often another push may take the number that this one was about to take.
_ATTEMPTS = 10


def push(
    folder: Path | str,
    *,
    catalog: Catalog,
    store: ArtifactStore,
    version: str | None = None,
    allowed_modules: Iterable[str] = (),
    device: str = "cpu",
    accept_batch_variance: bool = False,
) -> Manifest:
    """Registers the content of a model folder as a version.

    Without a version of its own, content that is registered already keeps its version, and new
    content gets the next whole number. The artifact is stored first: a push that dies in between
    leaves one that the next push of the same content, or ``Catalog.restore``, picks up.

    Args:
        folder: with a ``model.yaml``.
        catalog: where the version becomes known.
        store: where its files are kept.
        version: overrides the one in ``model.yaml``.
        allowed_modules: modules that factories and handlers may come from.
        device: where the model is tried out.
        accept_batch_variance: whether its outputs may depend on the rows that share a batch, or
            differ from run to run; the manifest then tells by how much they do.

    Returns:
        The manifest of the version, as registered.

    Raises:
        ModelFolderInvalid: the folder is incomplete, or the model does not do what it declares.
        BatchUnsafe: its outputs depend on the rows that share a batch, which is not accepted.
        ModelLoadFailed: the model cannot be loaded here.
        VersionExists: the version named is taken by other content.
    """
    folder = Path(folder)
    model = read_model_file(folder)
    if version is not None:
        model = _with_version(model, version)
    files = read_files(folder, model)
    loaded = load_model(folder, model, device, tuple(allowed_modules))
    dry_run(loaded)
    variance = batch_variance(loaded, accept=accept_batch_variance)
    make = partial(build_manifest, model, files, batch_variance=variance)
    if model.version is not None:
        return _keep(folder, make(model.version), catalog, store)
    return _keep_as_next(folder, model.name, make, catalog, store)


def _with_version(model: ModelFile, version: str) -> ModelFile:
    try:
        return ModelFile.model_validate({**model.model_dump(), "version": version})
    except ValidationError as error:
        raise ModelFolderInvalid(f"{MODEL_FILE}: {explain(error)}.") from None


def _keep_as_next(
    folder: Path,
    name: str,
    make: Callable[[str], Manifest],
    catalog: Catalog,
    store: ArtifactStore,
) -> Manifest:
    for attempt in range(_ATTEMPTS):
        taken = {manifest.version: manifest for manifest in store.manifests(name)}
        taken |= {manifest.version: manifest for manifest in catalog.manifests(name)}
        draft = make(next_version(taken))
        same = [manifest for manifest in taken.values() if manifest.digest == draft.digest]
        try:
            return _keep(folder, same[-1] if same else draft, catalog, store)
        except VersionExists:
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable: the last attempt returns or raises")


def _keep(folder: Path, manifest: Manifest, catalog: Catalog, store: ArtifactStore) -> Manifest:
    stored = store.put(folder, manifest)
    catalog.register(stored)
    return stored
