"""Adaptive batching against the best static setting, and how fast it follows a machine."""
