"""Canaries with real workers and jobs: a good version gets there, bad ones are taken back."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import redis

from umbel_batching.lanes import slot_of
from umbel_registry import TrafficControl

if TYPE_CHECKING:  # the fixtures of the tests' root
    from faults.feed import Feed
    from tests.conftest import MakeSettings, Register

QUICK = ("--steps", "25,100", "--every", "1s", "--min-jobs", "20", "--max-error-rate", "1%")
#: Figures in a reason.
FAILED = r"at \d+ %: .*\d+ of \d+ jobs failed, [\d.]+ %.*; the limit is 1 %"
SLOW = r"at \d+ %: .*p95 of \d+ jobs is \d+(\.\d)? ms.*; the limit is 25 ms"


def test_a_good_canary_is_promoted_and_bad_ones_are_rolled_back_with_the_reason(
    settings: MakeSettings,
    register: Register,
    start_worker: Callable[..., Any],
    feed: Callable[..., Feed],
    shared: Any,
    store_redis: redis.Redis,
    namespace: str,
) -> None:
    site = settings(concurrency=2, torch_threads=1)
    for handler, wait_ms in (("Affine", 2), ("Affine", 3), ("Flaky", 2), ("Sluggish", 2)):
        register(site, handler=handler, max_wait_ms=wait_ms)
    TrafficControl(store_redis, namespace).route("affine", {"1": 1})
    start_worker(site)
    jobs = feed(site)

    out, _ = shared.run("models", "canary", "affine", "2", *QUICK)
    assert re.findall(r"at (\d+) %,", out) == ["25", "100"]
    assert routed(store_redis, namespace) == {"2": 1}

    _, reason = shared.run("models", "canary", "affine", "3", *QUICK, code=1)
    assert re.search(f"rolled back: {FAILED}", reason), reason
    assert routed(store_redis, namespace) == {"2": 1}
    assert re.search(f"3 rolled back: {FAILED}", flat(shared, "show", "affine", "3"))

    _, reason = shared.run("models", "canary", "affine", "4", *QUICK, "--max-p95-ms", "25", code=1)
    assert re.search(f"rolled back: {SLOW}", reason), reason
    assert routed(store_redis, namespace) == {"2": 1}
    assert re.search(f"4 rolled back: {SLOW}", flat(shared, "show", "affine", "4"))

    history = flat(shared, "history", "affine")
    assert re.search(FAILED, history)
    assert re.search(SLOW, history)
    slots, counts = {slot_of(f"affine@{version}"): version for version in "1234"}, jobs.stop()
    ended = {slots[slot]: set(count) for slot, count in counts.items()}
    assert ended.pop("3") == {"succeeded", "ValueError"}
    assert [*ended.values()] == [{"succeeded"}] * 3


def routed(client: redis.Redis, namespace: str) -> dict[str, float]:
    """Who answers, with what weight."""
    route = TrafficControl(client, namespace).read("affine").route
    assert route is not None
    return route.weights


def flat(command: Any, *words: str) -> str:
    """What a command about models prints, without the breaks of lines."""
    return " ".join(command.run("models", *words)[0].split())
