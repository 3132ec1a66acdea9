"""The order of version names: 10 comes after 9, and 1.10 after 1.9."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The pattern of a version name.
VERSION_PATTERN = r"^[0-9A-Za-z][0-9A-Za-z._-]{0,63}$"
#: The word that means "the highest version"; no version may have it for a name.
LATEST = "latest"

_PARTS = re.compile(r"[0-9]+|[A-Za-z]+")
#: These come before the version they prepare; any other word after it.
_EARLIER = frozenset({"a", "alpha", "b", "beta", "c", "dev", "pre", "preview", "rc"})
_BEFORE_END, _END, _AFTER_END, _NUMBER = range(4)

Key = tuple[tuple[tuple[int, int, str], ...], str]


def version_key(version: str) -> Key:
    """A sort key: numbers by value, ``1.0rc1`` before ``1.0``, ``1.0-gpu`` after it.

    Args:
        version: a version name.
    """
    parts = [_part(text) for text in _PARTS.findall(version)]
    return (*parts, (_END, 0, "")), version


def _part(text: str) -> tuple[int, int, str]:
    if text.isdigit():
        return _NUMBER, int(text), ""
    word = text.lower()
    return (_BEFORE_END if word in _EARLIER else _AFTER_END), 0, word


def in_order(versions: Iterable[str]) -> list[str]:
    """The versions from lowest to highest.

    Args:
        versions: version names.
    """
    return sorted(versions, key=version_key)


def latest(versions: Iterable[str]) -> str | None:
    """The highest version, or ``None`` if there is none.

    Args:
        versions: version names.
    """
    return max(versions, key=version_key, default=None)


def next_version(versions: Iterable[str]) -> str:
    """The next whole number: one above the highest leading number in use.

    Args:
        versions: version names already taken.
    """
    leading = (re.match(r"[0-9]+", version) for version in versions)
    return str(max((int(match.group()) for match in leading if match), default=0) + 1)
