"""Callbacks: where outcomes may be posted to, how they are written, signed, sent and sent again."""

from __future__ import annotations

from umbel_callbacks.signing import new_secret, verify
from umbel_config.errors import SignatureInvalid

__all__ = ["SignatureInvalid", "new_secret", "verify"]
