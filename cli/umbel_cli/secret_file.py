"""The secret that signs callbacks where none is set: made once, kept in the state folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pydantic import SecretStr

from umbel_callbacks.signing import new_secret
from umbel_config.errors import ConfigError
from umbel_config.settings import Settings

_NAME = "callback-secret"


def with_secret(settings: Settings) -> tuple[Settings, Path | None]:
    """Settings with a secret for callbacks, and the file that it is from, if it is from one.

    Meant for a stack on one machine: senders elsewhere would have another secret.

    Args:
        settings: as loaded.

    Raises:
        ConfigError: the file cannot be made or read.
    """
    if settings.callback_secrets:
        return settings, None
    path = settings.state_dir / _NAME
    secrets = (SecretStr(_kept(path)),)
    return settings.model_copy(update={"callback_secrets": secrets}), path


def kept_secret(settings: Settings) -> str | None:
    """The secret that a stack on this machine made, if there is one; none is made here.

    Args:
        settings: as loaded.
    """
    path = settings.state_dir / _NAME
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError):
        return None


def _kept(path: Path) -> str:
    """The secret in the file; where there is none, a new one appears in it all at once."""
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # For this user alone, as mkstemp makes it.
            number, draft = tempfile.mkstemp(prefix=f"{_NAME}.", dir=path.parent)
            with os.fdopen(number, "w", encoding="ascii") as file:
                file.write(new_secret() + "\n")
            try:
                os.link(draft, path)  # unlike a rename it lets the first of two win
            except FileExistsError:
                pass
            finally:
                Path(draft).unlink()
        kept = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it holds no plain text"
        raise ConfigError(
            f"No secret for callbacks can be kept in {path}: {why}. Set callback_secrets, or "
            "another state_dir."
        ) from None
    if not kept:
        raise ConfigError(f"{path} is empty; delete it, and a new secret for callbacks is made.")
    return kept
