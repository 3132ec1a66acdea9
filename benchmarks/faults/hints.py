"""Faults on the way from the flusher to the workers, and on the wire to Redis."""

from __future__ import annotations

import random
import signal
import threading
from typing import Any, cast

from faults.processes import Process
from faults.result import Row
from faults.scenario import Scenario
from faults.stage import Stage
from faults.stages import ProxiedStage
from faults.trial import Trial
from faults.waiting import until
from umbel_worker.app import make_app
from umbel_worker.dispatch import make_flusher

#: Share of the replies of Redis that are lost.
_LOST_REPLIES = 0.03


class LossyBroker:
    """Stands in for the Celery app of a flusher: loses a fifth of the messages, doubles a fifth.

    Args:
        app: sends the others.
        trial: is told of each loss.
    """

    def __init__(self, app: Any, trial: Trial) -> None:
        self.sent = self.dropped = self.doubled = 0
        self._app, self._trial, self._dice = app, trial, random.Random(11)

    def send_task(self, *args: Any, **options: Any) -> None:
        """Sends a message not at all, once, or twice."""
        copies = self._dice.choices([0, 1, 2], [20, 60, 20])[0]
        self.sent += 1
        self.dropped += copies == 0
        self.doubled += copies == 2
        if not copies:
            self._trial.strike()
        for _ in range(copies):
            self._app.send_task(*args, **options)


def lossy_hints(stage: Stage, name: str, title: str) -> Row:
    """A fifth of the Celery messages is lost, another fifth arrives twice."""
    trial = stage.trial(name, title, max_batch_size=16)
    stage.ensure_workers(1, flusher=False, concurrency=4, drain_budget_ms=20)
    broker = LossyBroker(make_app(stage.settings), trial)
    flusher = make_flusher(stage.settings, cast("Any", broker))
    thread = threading.Thread(target=flusher.run, name="lossy-flusher", daemon=True)
    thread.start()
    try:
        count = stage.scale.jobs // 3
        trial.load.submit(count)
        trial.await_done(count, 80)
    finally:
        flusher.stop()
        thread.join()
    trial.check(broker.dropped and broker.doubled, "some hints were dropped and some doubled")
    return trial.finish(
        f"of {broker.sent} hints {broker.dropped} were dropped and {broker.doubled} doubled"
    )


def kill_flusher(stage: Stage, name: str, title: str) -> Row:
    """SIGKILL for the only flusher while jobs wait for it; its supervisor starts another."""
    trial = stage.trial(name, title)
    stage.ensure_workers(1, flusher=False, concurrency=4, drain_budget_ms=20)
    flusher = stage.start("flusher")
    submitted = 0
    for _ in range(stage.scale.strikes):
        _await_watching(flusher)
        trial.await_done(submitted)
        flusher.signal(signal.SIGSTOP)
        submitted += len(trial.load.submit(stage.scale.jobs // 6))
        trial.strike(trial.witness.waiting())
        flusher.kill()
        flusher = stage.start("flusher")
    row = trial.finish(f"{stage.scale.strikes} kills while jobs waited; no other flusher")
    flusher.close()
    return row


def _await_watching(flusher: Process) -> None:
    until(lambda: "watching the lanes" in flusher.text(), "the flusher works")


def lost_replies(stage: Stage, name: str, title: str) -> Row:
    """Commands run, and their replies are lost with the connection."""
    proxy = cast("ProxiedStage", stage).proxy
    trial = stage.trial(name, title, max_batch_size=16)
    stage.ensure_workers(2)
    wanted = {"submit", "claim", "settle"}
    proxy.on_loss = trial.strike
    proxy.share = _LOST_REPLIES
    trial.load.feed(stage.scale.per_s, chunk=4)
    until(lambda: trial.load.jobs[stage.scale.jobs :], "enough is submitted", 60)
    until(lambda: wanted <= proxy.lost.keys(), "each kind of reply was lost", 60)
    trial.load.stop()
    row = trial.finish(_lost(proxy.lost), timeout_s=60)
    proxy.share = 0.0
    return row


def _lost(lost: dict[str, int]) -> str:
    named = ", ".join(f"{name} {lost[name]}" for name in sorted(lost, key=lost.__getitem__))
    return f"replies lost: {named}"


ON_LONE_FLUSHER = (
    Scenario("kill-flusher", "SIGKILL of the stand-alone flusher", kill_flusher),
    Scenario("lossy-hints", "20 % of Celery messages dropped, 20 % doubled", lossy_hints, 120),
)
ON_PROXY = (Scenario("lost-replies", "commands run, replies lost (3 %)", lost_replies, 150),)
