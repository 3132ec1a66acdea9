"""Callbacks: which receivers are allowed, how a body looks, how it is signed, sent and sent again."""

from __future__ import annotations
