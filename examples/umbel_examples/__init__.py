"""Whole models with real weights, to serve, to measure and to copy from."""

from __future__ import annotations
