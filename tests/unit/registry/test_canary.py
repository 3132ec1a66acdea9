"""Canaries in Redis: begun, stopped, and driven by one or by many, who may die at any moment."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import fakeredis
import pytest
import redis

from umbel_batching.calls import Calls
from umbel_batching.keys import lane_keys
from umbel_batching.lanes import Lane, new_uid
from umbel_batching.record import NO_REPLY, tail
from umbel_batching.scripts import Runner
from umbel_batching.values import NewJob
from umbel_config.connect import connect
from umbel_config.errors import (
    CanaryUnderWay,
    NothingToRollBack,
    NotReady,
    RouteInvalid,
    TrafficContended,
    VersionNotFound,
    VersionRetired,
)
from umbel_registry import Catalog, TensorSpec, TrafficControl, canary
from umbel_registry.canary import CanaryDriver
from umbel_registry.canary_evidence import CanaryEyes
from umbel_registry.figures import FiguresStore, Tallies
from umbel_registry.fleet import Fleet, Held, Report
from umbel_registry.route import Route
from umbel_registry.traffic import Canary

PLAN: dict[str, Any] = {"steps": (1, 25, 100), "every_s": 60, "max_error_rate": 0.01}
NO_STEPS: list[tuple[float, ...]] = [(), (5, 5), (0, 5), (5, 101), (float("nan"),)]
SLOTS = 4


class Rig:
    """Three versions of a model of which the third is new, one worker, and a clock of our own."""

    def __init__(self, client: Any, namespace: str, make_manifest: Any) -> None:
        self.redis, self.namespace = client, namespace
        self.control = TrafficControl(client, namespace, who="ann@host")
        self.manifests = [make_manifest(version, content=version.encode())[1] for version in "123"]
        for manifest in self.manifests:
            Catalog(client, namespace).register(manifest)
        self.control.route("digits", {"1": 60, "2": 40})
        Runner(client).run(Calls(namespace).announce("umbel", "a:1", slots=SLOTS, stale_ms=60_000))
        self.now = 1000.0
        self.driver = self.new_driver()

    def new_driver(self, client: Any = None) -> CanaryDriver:
        return CanaryDriver(client or self.redis, self.namespace, clock=lambda: self.now)

    def begin(self, **changes: Any) -> Any:
        return canary.begin(self.control, "digits", "3", **(PLAN | changes))

    @property
    def canary(self) -> Canary:
        found = self.control.read("digits").traffic.canary
        assert found is not None
        return found

    @property
    def route(self) -> Route:
        found = self.control.read("digits").route
        assert found is not None
        return found

    @property
    def weights(self) -> dict[str, float]:
        route = self.route
        return {name: round(100 * route.share(name), 6) for name in sorted(route.weights)}

    def loaded(
        self, state: Any = "ready", since_ms: int = 2**52, error: str = "", version: int = 3
    ) -> None:
        digest = self.manifests[version - 1].digest
        held = Held("digits", str(version), digest, state, since_ms=since_ms, error=error)
        report = Report("a:1", "a:1", SLOTS, ("umbel",), held=(held,))
        seconds, _ = self.redis.time()
        Fleet(self.redis, self.namespace).tell(report, seconds * 1000)

    def measured(self, version: str = "3", jobs: int = 100, failed: int = 0) -> None:
        """Figures under the route in force."""
        number = self.control.read("digits").traffic.number_in_force
        tallies = Tallies()
        for place in range(jobs):
            tallies.add("digits", number, version, [10.0], 1.0, int(place < failed))
        FiguresStore(self.redis, self.namespace).add(tallies.take())

    def submitted(self, jobs: int, ago_s: int) -> None:
        """Jobs of the new version that have waited for so long."""
        lane = Lane(model="digits", version="3")
        new = [NewJob(new_uid(), tail(NO_REPLY, b"") + b"x") for _ in range(jobs)]
        Runner(self.redis).run(Calls(self.namespace).submit(lane, new))
        for job in new:
            self.redis.zincrby(lane_keys(self.namespace, lane.slot).waiting, -1000 * ago_s, job.uid)

    def passed(self, seconds: float) -> None:
        """As if the step had begun so much earlier."""

        def edit(now: Any) -> Any:
            found = now.traffic.canary
            moved = found.model_copy(update={"since_ms": found.since_ms - round(seconds * 1000)})
            return now.traffic.model_copy(update={"canary": moved})

        self.control.change("digits", "test", edit)


@pytest.fixture
def rig(make_manifest: Any) -> Rig:
    return Rig(fakeredis.FakeRedis(), "test", make_manifest)


def test_nothing_moves_before_workers_have_loaded_it(rig: Rig) -> None:
    change = rig.begin()
    assert change.changes == {"canary": (None, "3 warming")}
    assert change.who == "ann@host"
    assert rig.weights == {"1": 60, "2": 40}
    traffic = rig.control.read("digits").traffic
    assert traffic.to_load(change.at + 300_000)[0] == "3"
    assert (rig.canary.before, rig.canary.by) == ({"1": 60.0, "2": 40.0}, "ann@host")
    assert rig.driver.turn() == 0
    assert rig.canary.reason == "is being loaded"


def test_a_good_version_ends_with_all_jobs(rig: Rig) -> None:
    before = rig.route
    rig.begin()
    rig.loaded()
    assert [rig.driver.turn(), rig.driver.turn()] == [1, 0]
    assert rig.weights == {"1": 59.4, "2": 39.6, "3": 1}
    for weights in ({"1": 45, "2": 30, "3": 25}, {"3": 100}):
        rig.measured()
        assert rig.driver.turn() == 0
        rig.passed(60)
        assert [rig.driver.turn(), rig.driver.turn()] == [1, 0]
        assert rig.weights == weights
        assert rig.canary.reason == ""
    rig.measured()
    rig.passed(60)
    assert [rig.driver.turn(), rig.driver.turn()] == [1, 0]
    assert (rig.canary.state, rig.weights) == ("promoted", {"3": 100})
    told = [(each.who, each.what) for each in rig.control.history("digits") if each.who == "canary"]
    assert told == [("canary", "canary promote"), *[("canary", "canary step")] * 3]
    last = rig.control.history("digits")[0]
    assert last.why == "at 100 %: 0 of 100 jobs failed, p95 10.2 ms"
    assert last.changes["canary"][1] == f"3 promoted: {last.why}"
    rig.control.roll_back("digits")
    assert rig.route.table == before.table  # not the one of a step


def test_a_bad_version_is_rolled_back_key_by_key(rig: Rig) -> None:
    before, earlier = rig.route, rig.control.read("digits").traffic.earlier
    rig.begin()
    rig.loaded()
    rig.driver.turn()
    rig.measured(failed=0)
    rig.passed(60)
    rig.driver.turn()
    rig.measured(jobs=50, failed=5)
    assert rig.driver.turn() == 1
    assert (rig.route.table, rig.route.weights) == (before.table, before.weights)
    after = rig.control.read("digits").traffic
    assert (after.earlier, after.wanted) == (earlier, {})
    assert rig.canary.state == "rolled_back"
    assert rig.canary.reason.startswith("at 25 %: 5 of 50 jobs failed, 10 %")
    assert rig.driver.turn() == 0


def test_a_version_that_fails_to_load_takes_no_job(rig: Rig) -> None:
    rig.begin()
    rig.loaded("failed", error="ModelLoadFailed: no")
    assert rig.driver.turn() == 1
    assert (rig.canary.state, rig.weights) == ("rolled_back", {"1": 60, "2": 40})
    assert rig.canary.reason == "could not be loaded on a:1: ModelLoadFailed: no"


def test_a_failure_from_before_it_began_is_not_held_against_it(rig: Rig) -> None:
    rig.begin()
    rig.loaded("failed", since_ms=rig.canary.started_ms - 60_000, error="no")
    assert rig.driver.turn() == 0
    assert rig.canary.state == "warming"


def test_a_wait_is_told_once_and_leaves_no_trail(rig: Rig) -> None:
    rig.begin()
    rig.loaded()
    rig.driver.turn()
    rig.passed(60)
    number, told = rig.control.read("digits").number, len(rig.control.history("digits"))
    assert [rig.driver.turn() for _ in range(3)] == [0, 0, 0]
    assert rig.canary.reason == "no job has come to it yet"
    assert rig.control.read("digits").number == number + 1
    assert len(rig.control.history("digits")) == told


def test_each_step_has_figures_of_its_own(rig: Rig) -> None:
    rig.begin()
    rig.loaded()
    rig.driver.turn()
    rig.measured(jobs=100)
    rig.passed(60)
    rig.driver.turn()
    rig.passed(600)
    assert rig.driver.turn() == 0
    assert rig.canary.step == 1


def test_the_last_step_below_100_stays(rig: Rig) -> None:
    rig.begin(steps=(10,))
    rig.loaded()
    rig.driver.turn()
    rig.measured()
    rig.passed(60)
    assert rig.driver.turn() == 1
    assert (rig.canary.state, rig.weights) == ("stopped", {"1": 54, "2": 36, "3": 10})
    assert rig.canary.reason.startswith("holds at 10 % as asked; at 10 %: 0 of 100 jobs failed")


def test_jobs_without_an_end_are_watched_before_they_count(rig: Rig) -> None:
    rig.begin()
    rig.loaded()
    rig.driver.turn()
    rig.submitted(3, ago_s=3600)
    rig.passed(3600)
    for _ in range(7):
        assert rig.driver.turn() == 0
        rig.now += 10
    assert rig.new_driver().turn() == 0  # a worker that has just come back
    assert rig.driver.turn() == 1
    assert rig.canary.reason == (
        "at 1 %: no job of it ended in 70 s; jobs waiting: 3, batches running: 0"
    )


def test_a_silence_in_which_nobody_looked_does_not_count(rig: Rig) -> None:
    rig.begin()
    rig.loaded()
    rig.driver.turn()
    rig.submitted(3, ago_s=3600)
    rig.passed(3600)
    for _ in range(5):
        assert rig.driver.turn() == 0
        rig.now += 100


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        *(({"steps": steps}, "are percents that rise") for steps in NO_STEPS),
        ({"every_s": 0}, "each step takes a time above 0"),
        ({"every_s": float("inf")}, "each step takes a time above 0"),
        ({"warm_s": -1}, "workers need a time above 0"),
        ({"min_jobs": 0}, "at least one job"),
        ({"max_error_rate": 1.0}, "from 0 to below 1"),
        ({"max_error_rate": float("nan")}, "from 0 to below 1"),
        ({"max_p95_ms": 0}, "p95 is above 0 ms"),
    ],
)
def test_a_plan_without_sense_is_refused(rig: Rig, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(RouteInvalid, match=problem):
        rig.begin(**changes)
    assert rig.control.read("digits").traffic.canary is None


def test_what_a_canary_cannot_begin_with(rig: Rig, make_manifest: Any) -> None:
    def begin(version: str) -> None:
        canary.begin(rig.control, "digits", version, **PLAN)

    with pytest.raises(VersionNotFound, match="no version '9'"):
        begin("9")
    with pytest.raises(RouteInvalid, match="2 gets 40 % of the jobs already"):
        begin("2")
    other = make_manifest("4", inputs={"z": TensorSpec(dtype="float32")})[1]
    Catalog(rig.redis, "test").register(other)
    with pytest.raises(RouteInvalid, match="different inputs"):
        begin("4")
    rig.control.retire("digits", "3")
    with pytest.raises(VersionRetired):
        begin("3")
    rig.control.route("digits", {"1": 1})
    with pytest.raises(RouteInvalid, match="1 gets all jobs already"):
        begin("1")
    begin("2")
    with pytest.raises(CanaryUnderWay):
        begin("2")


def test_a_version_that_is_in_the_route_grows_from_there(rig: Rig) -> None:
    canary.begin(rig.control, "digits", "2", **(PLAN | {"steps": (50, 100)}))
    rig.loaded(version=2)
    assert [rig.driver.turn(), rig.weights] == [1, {"1": 50, "2": 50}]
    canary.stop(rig.control, "digits")
    assert rig.weights == {"1": 60, "2": 40}


def test_a_route_that_nobody_set_stays_when_a_version_is_pushed(make_manifest: Any) -> None:
    client = fakeredis.FakeRedis()
    for version in "12":
        Catalog(client, "test").register(make_manifest(version, content=version.encode())[1])
    control = TrafficControl(client, "test")
    with pytest.raises(RouteInvalid, match=r"2 gets all jobs already.*models route digits VERSION"):
        canary.begin(control, "digits", "latest", **PLAN)
    canary.begin(control, "digits", "1", **PLAN)
    Catalog(client, "test").register(make_manifest("3", content=b"3")[1])
    standing = control.read("digits")
    assert standing.route is not None
    assert standing.route.weights == {"2": 1.0}
    assert standing.traffic.earlier == ()


def test_shadows_stay_and_come_back(rig: Rig) -> None:
    rig.control.route("digits", {"1": 1}, {"3": 0.5, "2": 0.25})
    rig.begin()
    rig.loaded()
    rig.driver.turn()
    assert rig.route.shadows == {"2": 0.25}
    canary.stop(rig.control, "digits")
    assert (rig.route.weights, rig.route.shadows) == ({"1": 1.0}, {"3": 0.5, "2": 0.25})


def test_a_canary_is_stopped_by_hand(rig: Rig) -> None:
    with pytest.raises(NothingToRollBack, match="No canary of digits is under way"):
        canary.stop(rig.control, "digits")
    rig.begin()
    with pytest.raises(NotReady, match="not loaded on all workers yet"):
        canary.stop(rig.control, "digits", promote=True)
    planned = canary.stop(rig.control, "digits", dry_run=True)
    assert planned.changes == {"canary": ("3 warming", "3 stopped: by hand")}
    assert rig.canary.state == "warming"
    rig.loaded()
    rig.driver.turn()
    canary.stop(rig.control, "digits")
    assert (rig.canary.state, rig.weights) == ("stopped", {"1": 60, "2": 40})
    assert rig.driver.turn() == 0
    rig.begin()
    rig.driver.turn()
    canary.stop(rig.control, "digits", promote=True)
    assert (rig.canary.state, rig.weights) == ("promoted", {"3": 100})
    earlier = rig.control.read("digits").traffic.earlier
    assert earlier[0].weights == {"1": 60, "2": 40}
    assert all("3" not in each.weights or each.number == 0 for each in earlier)


def test_a_driver_that_dies_before_it_writes_leaves_nothing_half_done(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.begin()
    rig.loaded()
    before = rig.control.read("digits").traffic

    class Killed(BaseException):
        pass

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    dying = rig.new_driver()
    monkeypatch.setattr(dying._control, "_write", die)
    with pytest.raises(Killed):
        dying.turn()
    assert rig.control.read("digits").traffic == before
    assert rig.new_driver().turn() == 1
    assert rig.canary.step == 0


@pytest.mark.parametrize("meanwhile", ["stepped", "stopped", "begun anew"])
def test_who_decided_about_a_moment_that_is_over_changes_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    rig.begin()
    rig.loaded()
    slow = rig.new_driver()
    look = slow._eyes.look

    def overtaken(*args: Any) -> Any:
        seen = look(*args)
        if meanwhile == "stepped":
            assert rig.driver.turn() == 1
        else:
            canary.stop(rig.control, "digits")
        if meanwhile == "begun anew":
            rig.begin()
            rig.passed(1)  # no two begin in the same millisecond
        return seen

    monkeypatch.setattr(slow._eyes, "look", overtaken)
    assert slow.turn() == 0
    state = {"stepped": "stepping", "stopped": "stopped", "begun anew": "warming"}[meanwhile]
    assert (rig.canary.state, rig.canary.step) == (state, 0 if meanwhile == "stepped" else -1)
    assert rig.route.share("3") == (0.01 if meanwhile == "stepped" else 0)


def test_what_befell_jobs_before_a_step_is_not_held_against_it(rig: Rig) -> None:
    lane = lane_keys("test", Lane(model="digits", version="3").slot).lane
    rig.redis.hset(lane, mapping={"succeeded": 100, "failed": 50, "leases_lost": 3})
    rig.begin()
    rig.loaded()
    rig.driver.turn()
    assert rig.driver.turn() == 0
    rig.redis.hincrby(lane, "failed", 20)
    assert rig.driver.turn() == 1
    assert rig.canary.reason.startswith("at 1 %: 20 of 20 jobs failed")


def test_a_contended_canary_is_left_alone(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.begin()
    rig.loaded()
    monkeypatch.setattr(rig.driver._control, "_write", lambda *_: False)
    assert rig.driver.turn() == 0
    with pytest.raises(TrafficContended):
        rig.driver._advance("digits")


def test_without_a_canary_a_turn_is_one_read(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rig.driver.turn() == 0
    asked: list[str] = []
    execute: Callable[..., Any] = rig.redis.execute_command

    def noted(*args: Any, **more: Any) -> Any:
        asked.append(args[0])
        return execute(*args, **more)

    monkeypatch.setattr(rig.redis, "execute_command", noted)
    assert rig.driver.turn() == 0
    assert asked == ["GET"]


def test_jobs_that_wait_and_jobs_that_run_are_seen(rig: Rig) -> None:
    rig.begin()
    rig.submitted(2, ago_s=0)
    rig.submitted(1, ago_s=90)
    calls, runner = Calls(rig.namespace), Runner(rig.redis)
    slot = Lane(model="digits", version="3").slot
    eyes = CanaryEyes(rig.redis, rig.namespace)

    def look() -> tuple[int, int, bool]:
        seen = eyes.look(rig.control.read("digits"), rig.canary).evidence
        return seen.waiting, seen.running, 90_000 <= seen.oldest_ms < 150_000

    assert look() == (3, 0, True)
    claim = calls.claim(slot, batch=new_uid(), token=new_uid(), worker="a:1", lease_ms=60_000)
    claimed = runner.run(claim)
    assert len(claimed.uids) == 3
    assert look() == (0, 1, False)
    batch = f"{lane_keys('test', slot).batch}{claimed.batch}"
    rig.redis.hset(batch, "oldest", claimed.started_ms - 95_000)
    assert look() == (0, 1, True)
    rig.redis.hset(batch, "oldest", claimed.started_ms)
    rig.submitted(1, ago_s=100)
    assert look() == (1, 1, True)


def test_a_model_that_cannot_be_read_does_not_stop_the_others(
    rig: Rig, make_manifest: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rig.begin()
    rig.loaded()
    rig.driver.turn()
    for name in ("another", "third"):
        Catalog(rig.redis, "test").register(make_manifest("1", name=name)[1])
    rig.redis.hset("test:registry:traffic:another", "state", '{"canary": {"state": "stepping"}}')
    rig.redis.hset("test:registry:traffic:third", "state", "no JSON")
    rig.measured()
    rig.passed(60)
    assert rig.driver.turn() == 1
    assert "the canary of another cannot go on" in caplog.text


def test_many_drivers_take_each_step_exactly_once(
    redis_url: str, namespace: str, store_redis: redis.Redis, make_manifest: Any
) -> None:
    rig = Rig(store_redis, namespace, make_manifest)
    rig.begin()
    rig.loaded()
    clients = [connect(redis_url, client_name=f"driver-{place}") for place in range(4)]
    drivers = [rig.new_driver(client) for client in clients]
    with ThreadPoolExecutor(len(drivers)) as pool:
        for step in range(4):
            gate = Barrier(len(drivers))

            def race(driver: CanaryDriver, gate: Barrier = gate) -> int:
                gate.wait(20)
                return sum(driver.turn() for _ in range(3))

            assert sum(pool.map(race, drivers)) == 1
            assert rig.canary.step == min(step, 2)
            rig.measured()
            rig.passed(60)
    assert (rig.canary.state, rig.weights) == ("promoted", {"3": 100})
    assert [each.who for each in rig.control.history("digits")].count("canary") == 4
    for client in clients:
        client.close()
