"""umbel, as a user sets it up: an embedded Redis, the models, one worker; as it is delivered."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from faults.closing import Closing

from suite.networks import BATCH, WAIT_MS, network, rows
from suite.processes import Process, paths
from suite.remote import Remote
from suite.sentences import FILE, FOLDER
from umbel import Client
from umbel_config.connect import connect
from umbel_config.embedded import EmbeddedRedis
from umbel_config.settings import environment, load_settings
from umbel_examples import minilm_folder
from umbel_registry import ArtifactStore, Catalog, export_model, push
from umbel_worker.runtime import threads_per_batch

#: The longest wait of each model; `tiny-now` is `tiny` without any.
WAITS_MS: Final = {"tiny": WAIT_MS, "mid": WAIT_MS, "image": WAIT_MS, "tiny-now": 0}


class Stack(Closing):
    """All of it, up and with every model loaded.

    Args:
        folder: for its data and logs.

    Attributes:
        settings: of worker and clients.
        threads: of torch, for one batch.
        worker: with its flusher.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        server = self._stack.enter_context(EmbeddedRedis.start(folder / "state"))
        self.settings = load_settings(
            redis_url=server.url,
            state_dir=folder / "state",
            allowed_modules=("umbel_examples",),
            log_level="warning",
        )
        self.threads = threads_per_batch(self.settings)
        os.environ |= {FILE: str(folder / "sentences.json"), FOLDER: str(folder / "minilm")}
        self._push()
        self.worker = self._stack.enter_context(
            Process(
                [sys.executable, "-m", "umbel_cli", "worker", "--stop-with-parent"],
                self.variables,
                folder / "umbel-worker.log",
            )
        )
        with Client(settings=self.settings) as client:
            for model in WAITS_MS:
                client.submit(model, rows(model.partition("-")[0], 1)[0]).result(timeout=120)
            client.submit("minilm", "Good morning.").result(timeout=120)

    @property
    def variables(self) -> dict[str, str]:
        """The environment of umbel's processes."""
        return environment(self.settings) | paths(umbel=True)

    def driver(self, way: str, number: int = 0) -> Remote:
        """Starts a client process; it ends with the stack.

        Args:
            way: see ``contestants/umbel_driver.py``.
            number: tells those of one way apart.
        """
        command = [sys.executable, "-m", "suite.contestants.umbel_driver", way]
        log = self._folder / f"umbel-{way}-{number}.log"
        return self._stack.enter_context(Remote(command, self.variables, log))

    def close(self) -> None:
        """Ends everything."""
        self._stack.close()

    def _push(self) -> None:
        with connect(self.settings) as client:
            catalog = Catalog(client, self.settings.namespace)
            store = ArtifactStore(self.settings.artifacts)
            for model, wait_ms in WAITS_MS.items():
                name, target = model.partition("-")[0], self._folder / model
                batching = {"max_batch_size": BATCH, "max_wait_ms": wait_ms}
                export_model(network(name), rows(name, 1)[0], target, name=model, batching=batching)
                push(target, catalog=catalog, store=store)
            folder = minilm_folder.write(self._folder / "minilm")
            allowed = self.settings.allowed_modules
            push(folder, catalog=catalog, store=store, allowed_modules=allowed)
