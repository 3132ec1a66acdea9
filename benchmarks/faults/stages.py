"""The stages there are: an embedded Redis, one behind a proxy that loses replies, a mortal one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote

from faults.proxy import LossyProxy
from faults.server import MortalRedis
from faults.stage import Scale, Stage
from umbel_config.embedded import EmbeddedRedis


class ProxiedStage(Stage):
    """A stage whose workers and clients reach Redis through a proxy; watchers do not.

    Attributes:
        proxy: loses no reply until told to.
    """

    proxy: LossyProxy


class MortalStage(Stage):
    """A stage whose Redis may be killed.

    Attributes:
        server: that Redis.
    """

    server: MortalRedis


def embedded(**overrides: Any) -> Callable[[Scale], AbstractContextManager[Stage]]:
    """Opens stages on an embedded Redis of their own.

    Args:
        **overrides: settings of workers, flushers and clients.
    """

    @contextmanager
    def opened(scale: Scale) -> Iterator[Stage]:
        with (
            TemporaryDirectory(prefix="umbel-faults-") as folder,
            EmbeddedRedis.start(Path(folder)) as server,
            Stage(server.url, scale, **overrides) as stage,
        ):
            yield stage

    return opened


@contextmanager
def proxied(scale: Scale) -> Iterator[Stage]:
    """Opens a stage behind a proxy."""
    with (
        TemporaryDirectory(prefix="umbel-faults-") as folder,
        EmbeddedRedis.start(Path(folder)) as server,
        LossyProxy(Path(unquote(server.url.removeprefix("unix://")))) as proxy,
        ProxiedStage(proxy.url, scale, store_url=server.url) as stage,
    ):
        stage.proxy = proxy
        yield stage


@contextmanager
def mortal(scale: Scale) -> Iterator[Stage]:
    """Opens a stage on a Redis that may be killed."""
    with MortalRedis() as server, MortalStage(server.url, scale) as stage:
        stage.server = server
        yield stage
