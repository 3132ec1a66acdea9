"""One readable line for each thing that a worker or flusher logs: time, level, who, what."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any

from celery.exceptions import CPendingDeprecationWarning
from celery.signals import setup_logging

from umbel_config.settings import load_settings

_FORMAT = "%(asctime)s %(levelname)-7s %(short)-8s %(message)s"
#: What Celery says of every message and task is news for debugging only.
_CHATTY = ("celery.worker.strategy", "celery.app.trace", "celery.redirected", "celery.bootsteps")
#: Libraries that have nothing to say below this.
_QUIET = ("amqp", "asyncio", "fsspec", "kombu", "multiprocessing", "torch", "urllib3")


def configure(level: str) -> None:
    """Sends all logging of this process to standard error.

    Args:
        level: least level that is logged.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line(_FORMAT, datefmt="%H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    warnings.filterwarnings("ignore", message="You're running the worker with superuser")
    logging.getLogger("py.warnings").addFilter(_is_news)
    least = logging.NOTSET if level == "debug" else logging.WARNING
    for name in (*_CHATTY, *_QUIET):
        logging.getLogger(name).setLevel(least)


def _is_news(record: logging.LogRecord) -> bool:
    """False for what Celery plans to change: it undoes warning filters when it starts."""
    return CPendingDeprecationWarning.__name__ not in record.getMessage()


class _Line(logging.Formatter):
    """Shortens ``umbel.worker`` to ``worker``, and everything of Celery to ``celery``."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as a line; only tracebacks take more."""
        first, _, rest = record.name.partition(".")
        record.short = rest if first == "umbel" and rest else first
        record.levelname = record.levelname.lower()
        record.msg, record.args = " ".join(record.getMessage().split()), None
        return super().format(record)


@setup_logging.connect  # type: ignore[untyped-decorator]
def _instead_of_celery(**_: Any) -> None:
    """Keeps Celery from setting up logging; its spawned pool processes import this as well."""
    configure(load_settings().log_level)
