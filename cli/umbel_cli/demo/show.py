"""The steps of the demo, one after the other, each told while it happens."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from umbel_batching.census import lane_statuses
from umbel_cli.demo.figures import Figures, figures_of, guesses
from umbel_cli.demo.load import Share, run_load
from umbel_cli.demo.report import show_batches, show_digits, show_figures
from umbel_cli.stack import Stack
from umbel_cli.store import client_of
from umbel_config.errors import StoreUnavailable
from umbel_config.settings import Settings
from umbel_registry import Catalog, Manifest

if TYPE_CHECKING:
    from umbel_cli.demo.train import Digits

MODEL, SINGLE = "digits", "digits-one-by-one"
BATCH = 64
#: The comparison sends fewer jobs: it is the slow way.
_SINGLE_SHARE = 4
#: Lines of the worker that are shown when it does not start.
_KEPT_LINES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the demo found.

    Attributes:
        accuracy: share of held-out digits that were read right, through umbel.
        held_out: how many of them there are.
        batched: the run with micro-batches.
        single: the run with one job per forward.
        job_id: one of the jobs.
    """

    accuracy: float
    held_out: int
    batched: Figures
    single: Figures
    job_id: str


class Demo:
    """Runs the demo and tells about it.

    Args:
        settings: as loaded.
        out: where it tells.
        stop: ends it early.
        hurry: ends it without patience.
    """

    def __init__(
        self, settings: Settings, *, out: Console, stop: threading.Event, hurry: threading.Event
    ) -> None:
        # A second torch thread only gets into the way of the producers on a small machine.
        threads = settings.torch_threads or 1
        self._settings = settings.model_copy(update={"torch_threads": threads})
        self._out, self._stop, self._hurry = out, stop, hurry
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._stack = Stack(self._settings, workers=1, say=self._keep)

    def run(self, *, rounds: int, producers: int) -> Outcome:
        """Everything, from training to figures.

        Args:
            rounds: how often each held-out digit is sent.
            producers: processes that submit at once.

        Raises:
            StoreUnavailable: Redis, or the worker, does not start.
        """
        try:
            self._out.rule("[bold]umbel demo", align="left")
            self._stack.start()
            digits = self._prepare()
            self._await_worker()
            count = len(digits.held_out)
            self._tell(
                f"submitting {count} held-out digits {rounds} times = {count * rounds:,} jobs, "
                f"one by one, from {producers} processes"
            )
            shares = self._load(MODEL, digits, rounds, producers)
            fewer = max(1, rounds // _SINGLE_SHARE)
            self._tell(f"the same one job per forward (max_batch_size 1), {count * fewer:,} jobs")
            single = figures_of(self._load(SINGLE, digits, fewer, producers))
        finally:
            self._stack.stop(self._hurry)
        return self._report(digits, shares, single)

    def _prepare(self) -> Digits:
        """Trains, exports and pushes the model, twice: with batches and without."""
        from umbel_cli.demo import train  # noqa: PLC0415  (torch and scikit-learn take seconds)

        digits = train.load_data()
        count, total = len(digits.train), len(digits.train) + len(digits.held_out)
        with self._step(f"training a small CNN on {count:,} of {total:,} scanned digits"):
            net = train.train(digits)
        right = train.accuracy(net, digits)
        self._tell(f"  it reads {right:.1%} of the other {len(digits.held_out)} right, by itself")
        home = self._settings.state_dir / "demo"
        for name, size in ((MODEL, BATCH), (SINGLE, 1)):
            with self._step(f"exporting and pushing it as [bold]{name}[/bold]"):
                folder = train.export(net, digits, home / name, name=name, max_batch_size=size)
                manifest = self._push(folder)
            self._tell(f"  {manifest.name} {manifest.version}, batches of up to {size}")
        return digits

    def _push(self, folder: object) -> Manifest:
        from umbel_registry import ArtifactStore, push  # noqa: PLC0415  (loads torch)

        settings = self._stack.settings
        with client_of(settings) as client:
            return push(
                str(folder),
                catalog=Catalog(client, settings.namespace),
                store=ArtifactStore(settings.artifacts),
            )

    def _await_worker(self) -> None:
        self._tell(f"redis: {self._stack.redis}")
        with self._step("waiting for the worker"):
            ready = self._stack.wait_ready(self._stop)
        if self._stop.is_set():
            raise typer.Abort
        if not ready:
            raise StoreUnavailable(
                "The worker did not start in time. Its last lines:\n" + "\n".join(self._lines)
            )

    def _load(self, model: str, digits: Digits, rounds: int, producers: int) -> list[Share]:
        with self._progress(model, rounds * len(digits.held_out)) as tick:
            return run_load(
                self._stack.settings,
                model,
                digits.held_out,
                rounds=rounds,
                producers=producers,
                tick=tick,
            )

    @contextmanager
    def _progress(self, model: str, total: int) -> Iterator[Callable[[], None]]:
        """A bar that follows the lanes of ``model`` while the block runs."""
        before = self._finished(model)
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(
            *columns, console=self._out, transient=True, disable=not self._out.is_terminal
        ) as progress:
            task = progress.add_task("producers start", total=total)

            def tick() -> None:
                if self._stop.is_set():
                    raise typer.Abort
                self._stack.tend()
                finished = min(total, self._finished(model) - before)
                words = "results" if finished else "producers start"
                progress.update(task, completed=finished, description=words)

            yield tick

    def _finished(self, model: str) -> int:
        settings = self._stack.settings
        with client_of(settings) as client:
            lanes = lane_statuses(client, settings.namespace)
        return sum(lane.succeeded + lane.failed for lane in lanes if lane.model == model)

    def _report(self, digits: Digits, shares: list[Share], single: Figures) -> Outcome:
        out, batched = self._out, figures_of(shares)
        read = guesses(shares, len(digits.labels))
        right = int((read == digits.labels).sum())
        out.rule("[bold]what the model read", align="left")
        show_digits(out, digits.held_out, digits.labels, read)
        share = right / len(digits.labels)
        out.print(
            f"\naccuracy [bold]{share:.1%}[/bold]: {right} of {len(digits.labels)} held-out digits "
            f"read right, each of {batched.jobs // len(digits.labels)} times\n"
        )
        out.rule("[bold]jobs per batch, and how many batches", align="left")
        show_batches(out, batched)
        out.print()
        out.rule("[bold]what that brings", align="left")
        show_figures(out, batched, single)
        out.print()
        return Outcome(
            accuracy=share,
            held_out=len(digits.labels),
            batched=batched,
            single=single,
            job_id=shares[0].stories[-1].id,
        )

    @contextmanager
    def _step(self, title: str) -> Iterator[None]:
        """Tells what is being done, and how long it took."""
        if self._stop.is_set():
            raise typer.Abort
        started = time.monotonic()
        with self._out.status(title):
            yield
        self._tell(f"{title} [dim]({time.monotonic() - started:.1f} s)[/dim]")

    def _tell(self, line: str) -> None:
        self._out.print(line, soft_wrap=True)

    def _keep(self, name: str, line: str) -> None:
        self._lines.append(f"{name}: {line}")
