"""Makes ``python -m umbel_cli`` the same as ``umbel``."""

from __future__ import annotations

from umbel_cli.main import run

if __name__ == "__main__":
    run()
