"""``umbel models canary`` from begin to end, with workers that are only made up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from umbel_batching.calls import Calls
from umbel_batching.policy import BatchPolicy
from umbel_batching.scripts import Runner
from umbel_cli.models import canary as module
from umbel_registry import Catalog, Manifest, TensorSpec, TrafficControl
from umbel_registry.canary import CanaryDriver
from umbel_registry.figures import FiguresStore, Tallies
from umbel_registry.fleet import Fleet, Held, Report
from umbel_registry.manifest import ModelFile, build_manifest
from umbel_registry.paths import FileInfo

BEGIN = ("models", "canary", "digits", "2", "--steps", "10,100", "--every", "60s")


def manifest(version: str) -> Manifest:
    model = ModelFile(
        name="digits",
        format="torch_export",
        weights="model.pt2",
        inputs={"x": TensorSpec(dtype="float32")},
        outputs={"y": TensorSpec(dtype="float32")},
        batching=BatchPolicy(),
    )
    return build_manifest(model, {"model.pt2": FileInfo(sha256="0" * 64, bytes=1)}, version)


class Worker:
    """A worker that has version 2 loaded, and measures what a test says."""

    def __init__(self, client: redis.Redis, namespace: str) -> None:
        self.client, self.namespace = client, namespace
        self.control = TrafficControl(client, namespace, who="test")
        self.driver = CanaryDriver(client, namespace)

    def start(self) -> None:
        call = Calls(self.namespace).announce("umbel", "a:1", slots=2, stale_ms=60_000)
        Runner(self.client).run(call)

    def load(self, state: Any = "ready") -> None:
        held = Held("digits", "2", manifest("2").digest, state, since_ms=2**52, error="no room")
        report = Report("a:1", "a:1", 2, ("umbel",), held=(held,))
        Fleet(self.client, self.namespace).tell(report, 2**52)

    def measure(self, failed: int = 0) -> None:
        number = self.control.read("digits").traffic.number_in_force
        tallies = Tallies()
        for place in range(100):
            tallies.add("digits", number, "2", [10.0], 1.0, int(place < failed))
        FiguresStore(self.client, self.namespace).add(tallies.take())

    def turn(self) -> None:
        """One look of a driver, as if a minute had passed."""

        def earlier(now: Any) -> Any:
            found = now.traffic.canary
            before = found.model_copy(update={"since_ms": found.since_ms - 60_000})
            return now.traffic.model_copy(update={"canary": before})

        self.control.change("digits", "test", earlier)
        self.driver.turn()


@pytest.fixture
def worker(store_redis: redis.Redis, namespace: str) -> Worker:
    for version in "12":
        Catalog(store_redis, namespace).register(manifest(version))
    made = Worker(store_redis, namespace)
    made.control.route("digits", {"1": 1})
    made.start()
    return made


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Has something done each time the command pauses."""

    def do(what: Callable[[], None]) -> None:
        monkeypatch.setattr(module, "sleep", lambda _: what())

    return do


def test_a_good_version_is_followed_to_its_promotion(
    run_here: Any, worker: Worker, meanwhile: Any
) -> None:
    worker.load()

    def minute() -> None:
        worker.turn()
        worker.measure()

    meanwhile(minute)
    answer = run_here(*BEGIN)
    assert (answer.code, answer.err) == (0, "")
    told = [line.partition("  ")[2] for line in answer.out.splitlines()]
    assert told == [
        "2 warming",
        "2 stepping at 10 %, loaded and warm on all 2 slots of its workers",
        "2 stepping at 100 %, at 10 %: 0 of 100 jobs failed, p95 10.2 ms",
        "2 promoted: at 100 %: 0 of 100 jobs failed, p95 10.2 ms",
    ]
    shown = run_here("models", "canary", "digits")
    assert "digits 2 promoted: at 100 %: 0 of 100 jobs failed" in shown.out


def test_a_bad_version_ends_with_1_and_the_reason(
    run_here: Any, worker: Worker, meanwhile: Any
) -> None:
    worker.load()

    def minute() -> None:
        worker.turn()
        worker.measure(failed=30)

    meanwhile(minute)
    answer = run_here(*BEGIN, "--json")
    assert answer.code == 1
    reason = "at 10 %: 30 of 100 jobs failed, 30 %, with 95 % confidence at least"
    assert answer.json["canary"]["state"] == "rolled_back"
    assert answer.json["canary"]["reason"].startswith(reason)
    assert f"rolled back: {reason}" in answer.err


def test_waits_are_told_once(run_here: Any, worker: Worker, meanwhile: Any) -> None:
    turns = iter(range(100))

    def minute() -> None:
        if next(turns) == 3:
            worker.load("failed")
        worker.turn()

    meanwhile(minute)
    answer = run_here(*BEGIN)
    assert answer.code == 1
    assert answer.out.count("2 waits: is being loaded") == 1
    assert "could not be loaded on a:1: no room" in answer.err


def test_a_last_step_below_100_ends_well(run_here: Any, worker: Worker, meanwhile: Any) -> None:
    worker.load()

    def minute() -> None:
        worker.turn()
        worker.measure()

    meanwhile(minute)
    answer = run_here("models", "canary", "digits", "2", "--steps", "10%")
    assert (answer.code, answer.err) == (0, "")
    assert "2 stopped: holds at 10 % as asked" in answer.out


def test_it_goes_on_when_the_command_is_interrupted(
    run_here: Any, worker: Worker, meanwhile: Any
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    meanwhile(interrupt)
    answer = run_here(*BEGIN)
    assert answer.code == 130
    assert "The canary goes on." in answer.err
    assert "umbel models canary digits --stop" in answer.err
    found = worker.control.read("digits").traffic.canary
    assert found is not None
    assert found.under_way


def test_who_follows_a_canary_is_told_when_another_takes_its_place(
    run_here: Any, worker: Worker, meanwhile: Any
) -> None:
    def replace() -> None:
        run_here("models", "canary", "digits", "--stop")
        run_here(*BEGIN, "--detach")

    meanwhile(replace)
    answer = run_here(*BEGIN)
    assert answer.code == 1
    assert "Another canary of digits has begun" in answer.err


def test_it_is_begun_shown_and_stopped(run_here: Any, worker: Worker) -> None:
    shown = run_here("models", "canary", "digits")
    assert "digits has no canary. Begin one: umbel models canary digits VERSION" in shown.out
    assert run_here("models", "canary", "digits", "--json").json["canary"] is None
    limits = ("--max-error-rate", "0.02", "--max-p95-ms", "50", "--min-jobs", "70")
    planned = run_here(*BEGIN, *limits, "--dry-run")
    assert (planned.code, "canary: none -> 2 warming" in planned.out) == (0, True)
    begun = run_here(*BEGIN, *limits, "--detach", "--json")
    assert begun.json["changes"] == {"canary": [None, "2 warming"]}
    worker.load()
    worker.driver.turn()
    worker.measure(failed=1)
    shown = run_here("models", "canary", "digits")
    for words in (
        "digits 2 stepping at 10 %",
        "10, 100 %, each 1 min and 70 jobs at least",
        "2 % of its jobs failed, p95 50 ms",
        "1 of 100 jobs failed, p95 10.2 ms",
        "2 of 2 worker slots have digits 2 loaded and warm",
        "1=1",
    ):
        assert words in shown.out
    told = run_here("models", "canary", "digits", "--json").json
    assert told["canary"]["percent"] == 10
    assert told["canary"]["max_error_rate"] == 0.02
    assert (told["measured"]["jobs"], told["measured"]["failed"]) == (100, 1)
    assert told["workers"]["ready"] == 2
    refused = run_here(*BEGIN)
    assert (refused.code, "Stop it first" in refused.err) == (1, True)
    stopped = run_here("models", "canary", "digits", "--stop")
    assert stopped.code == 0
    assert "canary: 2 stepping at 10 % -> 2 stopped: by hand" in stopped.out
    assert run_here("models", "canary", "digits", "--stop").code == 1


def test_promoting_by_hand(run_here: Any, worker: Worker) -> None:
    run_here(*BEGIN, "--detach")
    answer = run_here("models", "canary", "digits", "--stop", "--promote")
    assert (answer.code, "not loaded on all workers yet" in answer.err) == (1, True)
    worker.load()
    worker.driver.turn()
    answer = run_here("models", "canary", "digits", "--stop", "--promote")
    assert "2 promoted: by hand" in answer.out
    route = worker.control.read("digits").route
    assert route is not None
    assert route.weights == {"2": 1.0}


def test_without_a_worker_nobody_would_drive_it(
    run_here: Any, worker: Worker, store_redis: redis.Redis, namespace: str
) -> None:
    call = Calls(namespace).announce("umbel", "a:1", slots=2, stale_ms=0)
    Runner(store_redis).run(call)
    answer = run_here(*BEGIN)
    assert answer.code == 1
    assert "No live worker serves queue umbel" in answer.err
    assert worker.control.read("digits").traffic.canary is None


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("2", "--steps", "1,x"), "are no steps"),
        (("2", "--steps", "25,5"), "are percents that rise"),
        (("2", "--every", "soon"), "is no length of time"),
        (("2", "--max-error-rate", "2"), "is no share"),
        (("2", "--promote"), "belongs to --stop"),
        (("2", "--stop"), "takes the model alone"),
        (("9",), "no version '9'"),
    ],
)
def test_what_makes_no_sense_is_refused(
    run_here: Any, worker: Worker, words: tuple[str, ...], problem: str
) -> None:
    answer = run_here("models", "canary", "digits", *words)
    assert answer.code in {1, 2}
    assert problem in " ".join(answer.err.replace("│", " ").split())
    assert worker.control.read("digits").traffic.canary is None
