"""Whether callbacks get on: senders with a secret, nothing late or forgotten, receivers well."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from socket import gethostname
from typing import Final

from umbel_batching.outbox_look import Outbox
from umbel_batching.receivers import BREAKS, ReceiverStatus
from umbel_cli.callbacks.tables import breaker_text
from umbel_cli.doctor.findings import Finding, counted, listed, ok, problem, warning
from umbel_cli.render import size_text
from umbel_config.settings import Settings

#: Where ``umbel up`` keeps a secret, see ``secret_file``.
_KEPT: Final = "callback-secret"
#: A callback that is due for longer, while senders are there, is late.
_LATE_MS: Final = 60_000
_FULLISH: Final = 0.8


def judge_outbox(settings: Settings, seen: Outbox) -> Iterator[Finding]:
    """What the look means.

    Args:
        settings: as loaded.
        seen: from ``look_at_outbox``.
    """
    yield _secret(settings, seen)
    yield _senders(settings.callback_queue, seen)
    yield _called(seen)
    yield _progress(seen)
    yield _receivers(seen)
    yield _room(settings, seen.receivers)
    yield _dead(settings.max_dead_callbacks, seen.undelivered)


def _secret(settings: Settings, seen: Outbox) -> Finding:
    check, kept = "callbacks.secret", settings.state_dir / _KEPT
    if settings.callback_secrets:
        return ok(check, f"{counted(len(settings.callback_secrets), 'secret')} set")
    away = sorted({name.rpartition(":")[0] for name in seen.senders} - {gethostname()})
    if away:
        return warning(
            check,
            f"Senders run elsewhere ({listed(away)}), and callback_secrets is not set here: one "
            "of this machine would sign with another secret, or not start",
            "Set UMBEL_CALLBACK_SECRETS to theirs, or start none here: umbel up --no-sender",
        )
    if os.path.exists(kept):  # noqa: PTH110  (Path.exists raises in another user's folder)
        return ok(check, f"Not set; umbel up uses the one in {kept}")
    if seen.queues and not seen.senders:
        return warning(
            check,
            "Callbacks wait, and callback_secrets is not set: umbel sender does not start so",
            "Set UMBEL_CALLBACK_SECRETS (umbel callbacks secret makes one), or run umbel up, which "
            "makes one by itself",
        )
    return ok(check, "Not set; umbel up makes one by itself, umbel sender needs it set")


def _senders(served: str, seen: Outbox) -> Finding:
    check = "callbacks.senders"
    if seen.senders:
        return ok(check, f"{counted(len(seen.senders), 'sender')} alive")
    if not seen.queues:
        return ok(check, "No sender is alive, and no callback waits")
    waiting = [each for each in seen.receivers if each.pending]
    names = [f"{each.receiver} ({each.pending:,})" for each in waiting]
    return problem(
        check,
        f"Callbacks wait, and no sender serves queue {served}: {listed(names)}",
        "Start one: umbel sender, or umbel up",
    )


def _called(seen: Outbox) -> Finding:
    check = "callbacks.called"
    if seen.forgotten:
        return problem(
            check,
            "Callbacks wait, but are not on the flushers' list, and no sender is at work",
            "Start a flusher, which puts them back within seconds: umbel flusher. If one runs, "
            "look at its log",
        )
    return ok(check, "What waits is on the flushers' list" if seen.queues else "Nothing waits")


def _progress(seen: Outbox) -> Finding:
    check, late = "callbacks.progress", dict[str, int]()
    # What waits for a receiver that was closed, or is on trial, waits for no sender.
    shut = {each.receiver for each in seen.receivers if each.closed_until or _is_broken(each)}
    for queue in seen.queues if seen.senders else ():
        since_ms = seen.at_ms - queue.due_ms
        if since_ms > _LATE_MS and queue.receiver not in shut:
            late[queue.receiver] = max(since_ms, late.get(queue.receiver, 0))
    if not late:
        return ok(check, "No callback is late for want of a sender")
    names = [f"{receiver} ({ms / 1000:,.0f} s)" for receiver, ms in sorted(late.items())]
    return warning(
        check,
        f"Senders are alive, and callbacks are due for long: {listed(names)}",
        "Look at the log of the senders, and at umbel callbacks receivers. Start more senders, or "
        "raise callback_host_concurrency",
    )


def _receivers(seen: Outbox) -> Finding:
    check = "callbacks.receivers"
    failing = sorted((each for each in seen.receivers if each.failures), key=lambda r: -r.failures)
    if not seen.receivers:
        return ok(check, "No receiver is known yet")
    if not failing:
        return ok(check, f"{counted(len(seen.receivers), 'receiver')} known, and none fails")
    names = [f"{each.receiver}: {breaker_text(each, seen.at_ms).plain}" for each in failing]
    return warning(
        check,
        f"Receivers cannot be reached, or are down: {listed(names)}",
        "See umbel callbacks receivers. They are tried again by themselves",
    )


def _is_broken(receiver: ReceiverStatus) -> bool:
    return receiver.failures >= BREAKS


def _room(settings: Settings, receivers: Sequence[ReceiverStatus]) -> Finding:
    check, most, most_bytes = "callbacks.room", settings.max_callbacks, settings.max_callback_bytes
    full = [
        each
        for each in receivers
        if each.pending > _FULLISH * most or each.pending_bytes > _FULLISH * most_bytes
    ]
    if not full:
        return ok(check, f"No receiver has over {_FULLISH:.0%} of max_callbacks waiting")
    names = [
        f"{each.receiver} ({each.pending:,} of {most:,}, {size_text(each.pending_bytes)} of "
        f"{size_text(most_bytes)})"
        for each in full
    ]
    return warning(
        check,
        "Callbacks pile up; with max_callbacks of them, or max_callback_bytes, new jobs are "
        f"refused: {listed(names)}",
        "See umbel callbacks receivers. Have the receiver mended, or raise these settings",
    )


def _dead(most: int, count: int) -> Finding:
    if not count:
        return ok("callbacks.dead", "No undelivered callbacks")
    summary = counted(count, "undelivered callback")
    if count > _FULLISH * most:
        summary += f" of the {most:,} that max_dead_callbacks keeps; the oldest give way"
    return warning(
        "callbacks.dead",
        summary,
        "See why with umbel callbacks list; then umbel callbacks replay",
    )
