"""Where model files are kept: a local folder or any fsspec URL, written once, checked on use."""

from __future__ import annotations

import glob
import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from umbel_config.errors import ArtifactTampered, ModelUnavailable
from umbel_registry.catalog import version_exists
from umbel_registry.manifest import Manifest
from umbel_registry.paths import check_relative, hash_file, locate

if TYPE_CHECKING:
    from collections.abc import Iterator

MANIFEST_FILE = "manifest.json"
#: Folders that are being written; they never hold a manifest where readers look for one.
_INCOMING = ".incoming-"


class ArtifactStore:
    """Model versions under one root: ``<root>/<name>/<version>/manifest.json`` and, beside it,
    a folder named by the digest that holds the files.

    The manifest is written last, so a version is there whole or not at all; a local version
    appears in one rename. Beside its versions lies what is kept of a model's traffic, see
    ``keepsake.py``: ``<root>/<name>/traffic-<namespace>.json``, the one thing here that changes.

    Args:
        root: a folder, or a URL such as ``s3://bucket/models`` (its fsspec driver installed).
    """  # noqa: D205  (the layout does not fit one line)

    def __init__(self, root: str | Path) -> None:
        self._fs, path = fsspec.core.url_to_fs(str(root))
        self._root = str(path).rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)

    def put(self, folder: Path, manifest: Manifest) -> Manifest:
        """Stores a version; the same content again puts back the files that have gone missing.

        Args:
            folder: the model folder that the manifest describes.
            manifest: of the new version.

        Returns:
            The manifest as stored: the older one, if the same content was there before.

        Raises:
            VersionExists: the version is stored with other content.
            ArtifactTampered: a file changed since the manifest was made.
            ModelFolderInvalid: a file is gone, or leads out of the folder.
        """
        stored = self.find(manifest.name, manifest.version)
        if stored is None:
            if self._local:
                self._put_local(folder, manifest)
            else:
                self._put_remote(folder, manifest)
            stored = self.find(manifest.name, manifest.version)
        if stored is None or stored.digest != manifest.digest:
            raise version_exists(manifest.name, manifest.version)
        self._put_back(folder, stored)
        return stored

    def find(self, name: str, version: str) -> Manifest | None:
        """The stored manifest of a version, or ``None``.

        Args:
            name: the model.
            version: the version.

        Raises:
            ArtifactTampered: it is there but unreadable.
        """
        place = f"{self._home(name, version)}/{MANIFEST_FILE}"
        return self.read(place) if self._fs.exists(place) else None

    def places(self, name: str = "*") -> list[str]:
        """Where manifests lie, for :meth:`read`.

        Args:
            name: a model; default: all.
        """
        # A remote root may be listed from memory, and would hide what others have written.
        self._fs.invalidate_cache()
        found = self._fs.glob(f"{glob.escape(self._root)}/{name}/*/{MANIFEST_FILE}")
        start = len(self._root) + 1
        return sorted(place for place in map(str, found) if not place[start:].startswith("."))

    def read(self, place: str) -> Manifest:
        """Reads one manifest.

        Args:
            place: as :meth:`places` returns it.

        Raises:
            ArtifactTampered: it is no manifest, was changed, or lies in a wrong place.
        """
        manifest = Manifest.from_json(self._fs.cat_file(place), place)
        if place != f"{self._home(manifest.name, manifest.version)}/{MANIFEST_FILE}":
            raise ArtifactTampered(
                f"{place} describes {manifest.name} {manifest.version}, which belongs elsewhere."
            )
        return manifest

    def manifests(self, name: str = "*") -> Iterator[Manifest]:
        """All stored versions.

        Args:
            name: a model; default: all.

        Raises:
            ArtifactTampered: one is unreadable.
        """
        return map(self.read, self.places(name))

    def sizes(self, manifest: Manifest) -> dict[str, int | None]:
        """The size of every file of a version as it lies there now; ``None``: it is missing.

        Args:
            manifest: of the version.

        Raises:
            OSError: the root cannot be read.
        """
        self._fs.invalidate_cache()
        source = self._files(manifest)
        return {path: self._size(f"{source}/{path}") for path in manifest.files}

    def fetch(self, manifest: Manifest, cache_dir: Path) -> Path:
        """A local folder with the files of a version, each checked by SHA-256.

        A local root is used in place; from any other one the files are copied once.

        Args:
            manifest: of the version.
            cache_dir: where copies are kept.

        Raises:
            ArtifactTampered: a file differs from what was pushed.
            ModelUnavailable: a file is missing.
        """
        source = self._files(manifest)
        if self._local:
            folder = Path(source)
        else:
            folder = cache_dir / manifest.name / manifest.version / manifest.digest
            if not folder.is_dir():
                self._download(source, folder, manifest)
        verify(folder, manifest)
        return folder

    def holds(self, name: str) -> bool:
        """Whether there is anything of a model.

        Args:
            name: the model.

        Raises:
            OSError: the root cannot be read.
        """
        self._fs.invalidate_cache()
        return bool(self._fs.isdir(f"{self._root}/{name}"))

    def traffic_place(self, name: str, namespace: str) -> str:
        """Where the traffic of a model is kept; installations may share a root.

        Args:
            name: the model.
            namespace: of the installation.
        """
        return f"{self._root}/{name}/traffic-{namespace}.json"

    def traffic(self, name: str, namespace: str) -> bytes | None:
        """What is kept of a model's traffic, or ``None``.

        Args:
            name: the model.
            namespace: of the installation.

        Raises:
            OSError: the root cannot be read.
        """
        self._fs.invalidate_cache()
        try:
            found: bytes = self._fs.cat_file(self.traffic_place(name, namespace))
        except FileNotFoundError:
            return None
        return found

    def put_traffic(self, name: str, namespace: str, content: bytes) -> None:
        """Keeps the traffic of a model in place of what was kept; readers never see a part.

        Args:
            name: the model.
            namespace: of the installation.
            content: what to keep.

        Raises:
            OSError: the root cannot be written.
        """
        place = self.traffic_place(name, namespace)
        home, _, file = place.rpartition("/")
        incoming = f"{home}/{_INCOMING}{uuid.uuid4().hex}-{file}"
        self._fs.makedirs(home, exist_ok=True)
        try:
            if self._local:
                _write_durably(Path(incoming), content)
                Path(incoming).replace(place)
                _sync(Path(home))
            else:
                self._fs.pipe_file(incoming, content)
                self._fs.mv(incoming, place)
        except BaseException:
            with suppress(OSError):
                self._fs.rm(incoming)
            raise

    def _size(self, place: str) -> int | None:
        try:
            known = self._fs.info(place)
        except FileNotFoundError:
            return None
        return int(known["size"]) if known["type"] == "file" else None

    def _home(self, name: str, version: str) -> str:
        return f"{self._root}/{name}/{version}"

    def _files(self, manifest: Manifest) -> str:
        return f"{self._home(manifest.name, manifest.version)}/{manifest.digest}"

    def _put_back(self, folder: Path, manifest: Manifest) -> None:
        missing = [path for path, size in self.sizes(manifest).items() if size is None]
        if not missing:
            return
        verify(folder, manifest)
        for path in missing:
            place = f"{self._files(manifest)}/{path}"
            self._fs.makedirs(place.rpartition("/")[0], exist_ok=True)
            incoming = f"{place}{_INCOMING}{uuid.uuid4().hex}"
            self._fs.put_file(str(locate(folder, path)), incoming)
            self._fs.mv(incoming, place)

    def _put_local(self, folder: Path, manifest: Manifest) -> None:
        home = Path(self._home(manifest.name, manifest.version))
        incoming = Path(self._root) / f"{_INCOMING}{uuid.uuid4().hex}"
        try:
            self._copy(folder, manifest, incoming / manifest.digest)
            _write_durably(incoming / MANIFEST_FILE, manifest.to_json())
            home.parent.mkdir(parents=True, exist_ok=True)
            _publish(incoming, home)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)

    def _copy(self, folder: Path, manifest: Manifest, target: Path) -> None:
        target.mkdir(parents=True)
        for path in manifest.files:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(locate(folder, path), target / path)
            _sync(target / path)
        verify(target, manifest)

    def _put_remote(self, folder: Path, manifest: Manifest) -> None:
        verify(folder, manifest)
        target = self._files(manifest)
        for path in manifest.files:
            place = f"{target}/{path}"
            self._fs.makedirs(place.rpartition("/")[0], exist_ok=True)
            self._fs.put_file(str(locate(folder, path)), place)
        home = self._home(manifest.name, manifest.version)
        self._fs.makedirs(home, exist_ok=True)
        self._fs.pipe_file(f"{home}/{MANIFEST_FILE}", manifest.to_json())

    def _download(self, source: str, folder: Path, manifest: Manifest) -> None:
        incoming = folder.parent / f"{_INCOMING}{uuid.uuid4().hex}"
        try:
            incoming.mkdir(parents=True)
            for path in manifest.files:
                target = incoming / path
                target.parent.mkdir(parents=True, exist_ok=True)
                self._get(f"{source}/{path}", target)
            verify(incoming, manifest)
            _publish(incoming, folder)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)

    def _get(self, place: str, target: Path) -> None:
        try:
            self._fs.get_file(place, str(target))
        except FileNotFoundError:
            raise _missing(place) from None


def verify(folder: Path, manifest: Manifest) -> None:
    """Checks every file of a version by size and SHA-256.

    Args:
        folder: where the files lie.
        manifest: what was recorded when the version was pushed.

    Raises:
        ArtifactTampered: a file differs, or leads out of the folder.
        ModelUnavailable: a file is missing.
    """
    root = folder.resolve()
    for path, recorded in manifest.files.items():
        target = (root / check_relative(path)).resolve()
        if not target.is_file():
            raise _missing(str(folder / path))
        if not target.is_relative_to(root) or hash_file(target) != recorded:
            raise ArtifactTampered(
                f"{folder / path} differs from what was pushed as {manifest.name} "
                f"{manifest.version} (SHA-256). Restore the file or push a new version."
            )


def _missing(place: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"{place} is missing from the artifact root. If the model was pushed on another machine, "
        "give both one artifact_root; else restore the file, or push the model again."
    )


def _publish(incoming: Path, home: Path) -> None:
    # Whoever renames first wins; the caller then compares what is there.
    try:
        incoming.rename(home)
    except OSError:
        if not home.is_dir():
            raise
    _sync(home.parent)


def _write_durably(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor: Any = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
