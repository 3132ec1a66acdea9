"""How the outputs of a model version are written as JSON, looked up once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from umbel_config.errors import ModelError

if TYPE_CHECKING:
    from umbel_registry.manifest import Manifest, OutputEncoding

#: Versions that are remembered; then all are forgotten at once.
_REMEMBERED = 4096


class Encodings:
    """The encodings of the versions that a catalog knows.

    A version never changes, so that each is asked for once. One that is not known, or whose
    manifest cannot be read, has the default, and is asked for again the next time.

    Args:
        get: finds a manifest by model and version.
    """

    def __init__(self, get: Callable[[str, str], Awaitable[Manifest]]) -> None:
        self._get = get
        self._known: dict[tuple[str, str], OutputEncoding] = {}

    async def of(self, model: str, version: str) -> OutputEncoding:
        """How the outputs of a version are written.

        Args:
            model: name of the model.
            version: one of its versions.

        Raises:
            RedisError: Redis cannot be reached.
        """
        known = self._known.get((model, version))
        if known is not None:
            return known
        try:
            found = (await self._get(model, version)).output_encoding
        except ModelError:
            return "list"
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[model, version] = found
        return found
