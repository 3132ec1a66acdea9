"""Callbacks: where outcomes may be posted to, how they are written, signed, sent and sent again."""

from __future__ import annotations

from umbel_callbacks.signing import new_secret, verify

__all__ = ["new_secret", "verify"]
