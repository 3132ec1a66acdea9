"""Where callbacks of submitted jobs go: checked once for each URL, as a record holds it."""

from __future__ import annotations

from umbel_batching.record import encode_callback
from umbel_callbacks.guard import Guard
from umbel_config.errors import InvalidInput
from umbel_config.settings import Settings

#: URLs remembered as checked; a caller with ever new ones pays for each.
_REMEMBERED = 1024


class CallbackChecks:
    """Turns the callback options of a submit into a part of the record.

    Args:
        settings: say which receivers are allowed.

    Raises:
        ConfigError: ``callback_allow`` cannot be read.
    """

    def __init__(self, settings: Settings) -> None:
        self._guard = Guard.of(settings)
        self._checked: dict[tuple[str, bool], bytes] = {}

    def part(self, url: str | None, *, shared: bool) -> bytes:
        """The callback part of a record; empty for no callback.

        Args:
            url: where the outcome is to be posted to, or ``None``.
            shared: whether outcomes that are due together may come in one POST.

        Raises:
            InvalidInput: callbacks may not go there, or it is no URL.
        """
        if url is None:
            if shared:
                raise InvalidInput("callback_batch needs a callback_url.")
            return b""
        if not isinstance(url, str):
            raise InvalidInput(f"callback_url must be text, not {type(url).__name__}.")
        known = self._checked.get((url, shared))
        if known is None:
            known = encode_callback(self._guard.check_url(url).url, shared=shared)
            if len(self._checked) >= _REMEMBERED:
                self._checked.clear()
            self._checked[url, shared] = known
        return known
