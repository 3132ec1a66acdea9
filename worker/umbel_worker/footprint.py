"""How much memory a loaded model takes, and giving back what an unloaded one held."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch

from umbel_registry import LoadedModel, Manifest
from umbel_worker.memory import empty_cache

#: One MB of ``max_loaded_mb``, in bytes.
MB: Final = 2**20
#: Objects of a model that are looked at at most.
_MOST_OBJECTS: Final = 100_000
_STATM: Final = Path("/proc/self/statm")
_CONTAINERS: Final = (list, tuple, set, frozenset)
_NOT_OURS: Final = (str, bytes, int, float, complex, type, type(os), torch.device, torch.dtype)


class Scale:
    """Weighs models as they are loaded, and remembers what each one weighed.

    Two figures are known of a model. The bytes of its tensors are exact, but a handler may hold
    more than tensors. The growth of the process holds everything, but also what others allocated
    meanwhile, and the libraries that came along with the first model of a kind and stay. The larger
    one counts, and the growth only where it tells of the model alone.
    """

    def __init__(self) -> None:
        self._weighed: dict[str, float] = {}
        self._kinds: set[tuple[str, ...]] = set()

    def estimate(self, manifest: Manifest) -> float:
        """MB that a version is going to take: as last time, else as large as its files.

        Args:
            manifest: of the version.
        """
        files = sum(info.bytes for info in manifest.files.values()) / MB
        return self._weighed.get(manifest.digest, files)

    def weigh(self, manifest: Manifest, model: LoadedModel, growth: int, *, quiet: bool) -> float:
        """MB that a model takes which was just loaded and run.

        Args:
            manifest: of the version.
            model: as loaded.
            growth: bytes that its device's memory, as seen from this process, has grown by.
            quiet: whether nothing else was loaded or ran meanwhile.
        """
        kind = (manifest.format, manifest.factory or manifest.handler or "")
        telling = quiet and kind in self._kinds
        self._kinds.add(kind)
        known = self._weighed.get(manifest.digest, 0.0)
        if telling or (manifest.format == "handler" and not known):
            known = growth / MB
        weight = max(known, tensor_bytes(model, model.device) / MB)
        self._weighed[manifest.digest] = weight
        return weight


def held_bytes(device: str) -> int:
    """Bytes that this process holds now: of the GPU, else of the machine's memory.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:0``.
    """
    if device.startswith("cuda"):
        return torch.cuda.memory_allocated(device)
    return resident_bytes()


def resident_bytes() -> int:
    """Bytes of the machine's memory that this process occupies."""
    try:
        pages = int(_STATM.read_text().split()[1])
    except OSError:  # not Linux: the highest figure so far is all there is
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return pages * os.sysconf("SC_PAGE_SIZE")


def tensor_bytes(model: LoadedModel, device: str) -> int:
    """Bytes of all tensors of a model on ``device``; memory that several share counts once.

    Args:
        model: as loaded.
        device: ``cpu``, ``cuda`` or ``cuda:0``.
    """
    kind = device.partition(":")[0]
    sizes: dict[int, int] = {}
    for part in _parts(model):
        for tensor in _tensors(part):
            if tensor.device.type == kind and tensor.layout == torch.strided:
                storage = tensor.untyped_storage()
                sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


def watch(model: LoadedModel) -> list[weakref.ref[Any]]:
    """References that tell whether a model is still there after the last user dropped it.

    Args:
        model: as loaded.
    """
    return [weakref.ref(model)] + [weakref.ref(part) for part in _parts(model)]


def give_back(watched: Iterable[weakref.ref[Any]]) -> None:
    """Returns the memory of models that were dropped to the system, and to the GPU.

    Args:
        watched: from ``watch``. The garbage collector, which stops the whole process for as long
            as it looks, is called only if some of it is still there: held by a circle.
    """
    if any(each() is not None for each in watched):
        gc.collect()
    trim()
    empty_cache()


def trim() -> None:
    """Has glibc return memory that was freed; other C libraries do so themselves, or cannot."""
    give = _malloc_trim()
    if give is not None:
        give(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError):  # there is no such library here
        return None
    return found


def _tensors(part: torch.nn.Module | torch.Tensor) -> Iterator[torch.Tensor]:
    if isinstance(part, torch.Tensor):
        yield part
        return
    yield from part.parameters()
    yield from part.buffers()
    for module in part.modules():  # constants of an exported program are plain attributes
        yield from (each for each in vars(module).values() if isinstance(each, torch.Tensor))


def _parts(model: LoadedModel) -> Iterator[torch.nn.Module | torch.Tensor]:
    """The modules and the loose tensors that can be reached from a model's attributes."""
    seen: set[int] = set()
    left: list[Any] = [model]
    while left and len(seen) < _MOST_OBJECTS:
        each = left.pop()
        if id(each) in seen or each is None or isinstance(each, _NOT_OURS):
            continue
        seen.add(id(each))
        if isinstance(each, torch.Tensor | torch.nn.Module):
            yield each  # its graph, which notes tensors that are not there, is not looked into
        else:
            left += _inside(each)


def _inside(each: Any) -> Iterable[Any]:
    """What an object holds: members, attributes, or the object that a method is bound to."""
    if isinstance(each, dict):
        return each.values()
    if isinstance(each, _CONTAINERS):
        return each
    held: list[Any] = [getattr(each, "__self__", None)]
    return [*held, *getattr(each, "__dict__", {}).values()]
