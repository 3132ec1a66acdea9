"""Every change is one step: checked, compared and set, with a line of what it was."""

from __future__ import annotations

import json
import re
from importlib import resources
from typing import Any

import fakeredis
import pytest

from umbel_config.errors import (
    ArtifactTampered,
    CanaryUnderWay,
    ModelNotFound,
    NothingToRollBack,
    RouteInvalid,
    StoreUnavailable,
    TrafficContended,
    VersionExists,
    VersionInUse,
    VersionNotFound,
)
from umbel_registry import Catalog, Manifest, ModelFile
from umbel_registry.audit import Change, canary_text, differences
from umbel_registry.edits import Standing
from umbel_registry.keys import audit_key, model_key, revision_key, traffic_key
from umbel_registry.manifest import build_manifest
from umbel_registry.paths import FileInfo
from umbel_registry.route import Route
from umbel_registry.traffic import Canary, Retirement, Traffic
from umbel_registry.traffic_control import MOST_KEPT, TrafficControl, whoami


def manifest(version: str) -> Manifest:
    model = ModelFile.model_validate(
        {
            "name": "digits",
            "format": "torch_export",
            "weights": "model.pt2",
            "inputs": {"x": {"dtype": "float32", "shape": [4]}},
            "outputs": {"y": {"dtype": "float32"}},
        }
    )
    files = {"model.pt2": FileInfo(bytes=1, sha256=version.encode().hex().zfill(64))}
    return build_manifest(model, files, version)


@pytest.fixture
def redis() -> fakeredis.FakeRedis:
    client = fakeredis.FakeRedis()
    for version in ("1", "2", "3", "4"):
        Catalog(client, "t").register(manifest(version))
    return client


@pytest.fixture
def control(redis: fakeredis.FakeRedis) -> TrafficControl:
    return TrafficControl(redis, "t", who="ann@desk")


def canary(**changes: Any) -> Canary:
    usual: dict[str, Any] = {"version": "4", "steps": (10.0, 100.0), "every_s": 60.0}
    usual |= {"min_jobs": 1, "max_error_rate": 0.1, "since_ms": 0, "started_ms": 0, "by": "ann"}
    return Canary(**(usual | {"before": {"3": 1.0}} | changes))


def with_canary(control: TrafficControl, **changes: Any) -> None:
    update = {"canary": canary(**changes)}
    control.change("digits", "canary", lambda now: now.traffic.model_copy(update=update))


def test_a_change_is_applied_counted_and_written_down(
    redis: fakeredis.FakeRedis, control: TrafficControl
) -> None:
    revision = Catalog(redis, "t").revision()
    assert control.read("digits").number == 0
    change = control.route("digits", {"3": 90, "4": 10}, {"2": 0.25})
    assert change.changes == {"route": (None, "3=90 4=10"), "shadow 2": (None, "0.25")}
    now = control.read("digits")
    assert now.number == 1
    assert now.route is not None
    assert (now.route.weights, now.route.number) == ({"3": 90.0, "4": 10.0}, 1)
    assert Catalog(redis, "t").revision() == revision + 1
    assert control.history("digits") == [change]
    assert (change.who, change.what, change.model) == ("ann@desk", "route", "digits")
    assert abs(change.at - now.now_ms) < 60_000


def test_history_is_newest_first_and_no_longer_than_asked_for(control: TrafficControl) -> None:
    for part in range(1, 6):
        control.route("digits", {"3": 100 - part, "4": part})
    assert [change.changes["route"][1] for change in control.history("digits", 2)] == [
        "3=95 4=5",
        "3=96 4=4",
    ]
    assert len(control.history("digits")) == 5
    assert control.history("digits", 0) == control.history("digits", -1) == []
    assert control.history("unknown") == []


def test_lines_of_another_release_do_not_hide_the_others(
    redis: fakeredis.FakeRedis, control: TrafficControl
) -> None:
    kept = control.alias("digits", {"production": "3"})
    redis.lpush(audit_key("t", "digits"), b'{"of": "a later release"}', b"\xff")
    assert control.history("digits") == [kept]


def test_trail_keeps_the_newest_changes(
    redis: fakeredis.FakeRedis, control: TrafficControl
) -> None:
    redis.rpush(audit_key("t", "digits"), *["{}"] * (MOST_KEPT + 5))
    newest = control.alias("digits", {"production": "3"})
    assert redis.llen(audit_key("t", "digits")) == MOST_KEPT
    assert control.history("digits") == [newest]


def test_what_changes_nothing_leaves_no_trace(
    redis: fakeredis.FakeRedis, control: TrafficControl
) -> None:
    control.route("digits", {"3": 90, "4": 10})
    revision = Catalog(redis, "t").revision()
    for change in (
        control.route("digits", {"3": 9, "4": 1}),
        control.alias("digits", {"none": None}),
        control.bring_back("digits", "3"),
        control.route("digits", {"4": 1}, dry_run=True),
        control.alias("digits", {"production": "3"}, dry_run=True),
        control.retire("digits", "1", dry_run=True),
        control.set_policy("digits", "3", {"max_batch_size": 5}, dry_run=True),
    ):
        assert control.read("digits").number == 1
        assert change.who == "ann@desk"
    assert Catalog(redis, "t").revision() == revision
    assert len(control.history("digits")) == 1
    dry = control.route("digits", {"4": 1}, dry_run=True)
    assert dry.changes == {"route": ("3=90 4=10", "4=1")}


def test_each_verb_tells_what_was_and_what_is(control: TrafficControl) -> None:
    control.alias("digits", {"production": "3"})
    told = control.alias("digits", {"production": "4", "next": "1"}).changes
    assert told == {"alias production": ("3", "4"), "alias next": (None, "1")}
    assert control.retire("digits", "2", queued="reroute", to="3").changes == {
        "retired 2": (None, "reroute on 3")
    }
    assert control.bring_back("digits", "2").changes == {"retired 2": ("reroute on 3", None)}
    policy = control.set_policy("digits", "3", {"max_queue_bytes": 2**40 + 1, "max_batch_size": 9})
    assert policy.changes == {
        "batching 3": (None, "max_batch_size=9 max_queue_bytes=1099511627777")
    }
    next_policy = control.set_policy("digits", "3", {"max_queue_bytes": 2**40 + 2})
    assert next_policy.changes["batching 3"][1] == "max_batch_size=9 max_queue_bytes=1099511627778"
    control.route("digits", {"3": 9_999_999, "4": 9_999_999})
    assert control.route("digits", {"3": 9_999_998, "4": 9_999_999}).changes == {
        "route": ("3=9999999 4=9999999", "3=9999998 4=9999999")
    }
    back = control.roll_back("digits", why="too slow")
    assert back.why == control.history("digits", 1)[0].why == "too slow"
    assert control.want("digits", "2", 60).changes == {}
    assert [*control.read("digits").traffic.wanted] == ["2"]


def test_every_part_of_the_traffic_is_described() -> None:
    route = Route.of({"3": 1}, shadows={"2": 1 / 3})
    whole = Traffic(
        aliases={"a": "3"},
        route=route,
        retired={"1": Retirement(queued="fail", at=0, by="")},
        policies={"3": {"max_wait_ms": 1}},
        canary=canary(state="stepping", step=0),
    )
    told = differences(Traffic(), whole)
    assert {*told} == {"route", "shadow 2", "alias a", "retired 1", "batching 3", "canary"}
    assert told["canary"] == (None, "4 stepping at 10 %")
    assert differences(whole, whole) == {}
    assert (
        canary_text(canary(state="rolled_back", reason="it failed")) == "4 rolled back: it failed"
    )


def test_the_other_change_wins_and_the_edit_is_made_anew(
    redis: fakeredis.FakeRedis, control: TrafficControl
) -> None:
    other, seen = TrafficControl(redis, "t", who="bob@desk"), []

    def edit(now: Standing) -> Traffic:
        seen.append(now.number)
        if len(seen) < 3:
            other.alias("digits", {f"name-{len(seen)}": "1"})
        return now.traffic.model_copy(update={"aliases": {**now.traffic.aliases, "mine": "2"}})

    control.change("digits", "alias", edit)
    assert seen == [0, 1, 2]
    traffic = control.read("digits").traffic
    assert traffic.aliases == {"name-1": "1", "name-2": "1", "mine": "2"}
    assert [change.who for change in control.history("digits")] == ["ann@desk", *["bob@desk"] * 2]


def test_one_who_is_always_too_late_is_told(
    redis: fakeredis.FakeRedis, control: TrafficControl
) -> None:
    other = TrafficControl(redis, "t", who="bob@desk")

    def edit(now: Standing) -> Traffic:
        other.alias("digits", {f"name-{now.number}": "1"})
        return now.traffic.model_copy(update={"aliases": {"mine": "2"}})

    with pytest.raises(TrafficContended, match="umbel models history") as caught:
        control.change("digits", "alias", edit)
    assert caught.value.retryable
    assert "mine" not in control.read("digits").traffic.aliases


def test_version_retired_meanwhile_gets_no_route(
    redis: fakeredis.FakeRedis, control: TrafficControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading and writing somebody retires the version; or routes to what is retired."""
    other, write = TrafficControl(redis, "t"), TrafficControl._write

    def late(self: TrafficControl, *given: Any) -> bool:
        if self is control:
            monkeypatch.setattr(TrafficControl, "_write", write)
            other.retire("digits", "1")
        return write(self, *given)

    monkeypatch.setattr(TrafficControl, "_write", late)
    with pytest.raises(Exception, match="digits 1 is retired"):
        control.route("digits", {"1": 1})

    def later(self: TrafficControl, *given: Any) -> bool:
        if self is control:
            monkeypatch.setattr(TrafficControl, "_write", write)
            other.route("digits", {"2": 1})
        return write(self, *given)

    monkeypatch.setattr(TrafficControl, "_write", later)
    with pytest.raises(VersionInUse, match="the route points to it"):
        control.retire("digits", "2")


def test_name_that_becomes_a_version_meanwhile_is_no_alias(
    redis: fakeredis.FakeRedis, control: TrafficControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = TrafficControl._write

    def late(self: TrafficControl, *given: Any) -> bool:
        Catalog(redis, "t").register(manifest("v5"))
        return write(self, *given)

    monkeypatch.setattr(TrafficControl, "_write", late)
    with pytest.raises(RouteInvalid, match=r"v5.* is a version of digits"):
        control.alias("digits", {"v5": "3"})
    assert control.read("digits").traffic.aliases == {}


def test_version_named_as_an_alias_is_not_registered(
    redis: fakeredis.FakeRedis, control: TrafficControl
) -> None:
    control.alias("digits", {"v5": "3"})
    with pytest.raises(VersionExists, match="'v5' is an alias of digits"):
        Catalog(redis, "t").register(manifest("v5"))
    control.alias("digits", {"v5": None})
    assert Catalog(redis, "t").register(manifest("v5"))


def test_canary_decides_alone_about_the_route(control: TrafficControl) -> None:
    control.route("digits", {"3": 1})
    with_canary(control)
    with pytest.raises(CanaryUnderWay, match="umbel models canary digits --stop"):
        control.route("digits", {"3": 1, "1": 1})
    control.alias("digits", {"production": "3"})
    for version in ("3", "4"):
        with pytest.raises(VersionInUse):
            control.retire("digits", version)


def test_rolling_back_ends_a_canary_and_its_steps_are_no_routes_to_return_to(
    control: TrafficControl,
) -> None:
    control.route("digits", {"1": 1})
    control.route("digits", {"3": 80, "2": 20})
    before = control.read("digits").traffic
    for percent in (10, 50):
        control.route("digits", {"3": 80 - percent * 0.8, "2": 20 - percent * 0.2, "4": percent})
    with_canary(control, state="stepping", step=1, before={"3": 80.0, "2": 20.0})
    control.roll_back("digits", why="alarm")
    now = control.read("digits").traffic
    assert now.canary is not None
    assert (now.canary.state, now.canary.reason) == ("rolled_back", "alarm")
    assert now.route is not None
    assert before.route is not None
    assert (now.route.table, now.route.number) == (before.route.table, 5)
    assert now.earlier == before.earlier
    control.roll_back("digits")
    assert control.read("digits").traffic.route == Route.of({"1": 1.0}, number=6)


def test_rolling_back_a_canary_before_its_first_step_leaves_the_route(
    control: TrafficControl,
) -> None:
    with_canary(control)
    control.roll_back("digits")
    now = control.read("digits").traffic
    assert (now.route, now.routes) == (None, 0)
    assert now.canary is not None
    assert (now.canary.state, now.canary.reason) == ("rolled_back", "by hand")
    with pytest.raises(NothingToRollBack):
        control.roll_back("digits")


def test_unknown_model_is_answered_with_what_there_is(control: TrafficControl) -> None:
    with pytest.raises(ModelNotFound, match="Did you mean 'digits'"):
        control.route("digit", {"1": 1})


def test_unreadable_traffic_is_told_and_left_alone(
    redis: fakeredis.FakeRedis, control: TrafficControl
) -> None:
    redis.hset(traffic_key("t", "digits"), mapping={"state": "{", "number": 3})
    with pytest.raises(ArtifactTampered):
        control.route("digits", {"1": 1})
    assert redis.hget(traffic_key("t", "digits"), "state") == b"{"


def test_store_that_is_away_is_told_as_such() -> None:
    server = fakeredis.FakeServer()
    control = TrafficControl(fakeredis.FakeRedis(server=server), "t")
    server.connected = False
    for call in (lambda: control.read("digits"), lambda: control.history("digits")):
        with pytest.raises(StoreUnavailable):
            call()


def test_client_that_decodes_works_too() -> None:
    client = fakeredis.FakeRedis(decode_responses=True)
    Catalog(client, "t").register(manifest("1"))
    control = TrafficControl(client, "t")
    change = control.alias("digits", {"production": "1"})
    assert control.history("digits") == [change]
    assert control.read("digits").traffic.aliases == {"production": "1"}


def test_keys_are_the_documented_ones(redis: fakeredis.FakeRedis, control: TrafficControl) -> None:
    before = {*redis.keys()}
    control.route("digits", {"1": 1})
    added = {*redis.keys()} - before
    assert added == {key("t", "digits").encode() for key in (traffic_key, audit_key)}
    fields = redis.hgetall(traffic_key("t", "digits"))
    assert {*fields} == {b"state", b"number", b"ids"}


class Script:
    """The script alone, as a client whose reply was lost sends it again."""

    def __init__(self, redis: fakeredis.FakeRedis) -> None:
        source = resources.files("umbel_registry").joinpath("lua/change.lua").read_text("utf-8")
        self._redis, self._script = redis, redis.register_script(source)

    def __call__(self, change_id: str, expected: int, state: str = "{}", above: int = 0) -> int:
        keys = [traffic_key("t", "digits"), revision_key("t"), audit_key("t", "digits")]
        arguments: list[str | int] = [change_id, expected, state, change_id, 1000, above]
        number: int = self._script(keys=[*keys, model_key("t", "digits")], args=arguments)
        return number

    @property
    def trail(self) -> list[Any]:
        return list(self._redis.lrange(audit_key("t", "digits"), 0, -1))


def change_id(number: int) -> str:
    return f"{number:032x}"


def test_same_change_sent_again_changes_nothing_even_behind_sixteen_others(
    redis: fakeredis.FakeRedis,
) -> None:
    script = Script(redis)
    first = 99_990  # so that numbers of five and six digits are remembered
    redis.hset(traffic_key("t", "digits"), "number", first)
    for number in range(first, first + 40):
        assert script(change_id(number), number, json.dumps({"routes": number})) == number + 1
        before = max(first, number - 15)
        assert script(change_id(before), before, '{"routes": 7}') == before + 1
    assert len(script.trail) == 40
    assert redis.hget(traffic_key("t", "digits"), "state") == b'{"routes": 100029}'
    assert redis.get(revision_key("t")) == b"44"  # four versions were registered


def test_change_of_what_has_moved_is_refused_and_leaves_no_trace(
    redis: fakeredis.FakeRedis,
) -> None:
    script = Script(redis)
    assert script(change_id(1), 0) == 1
    for expected in (0, 2, 7):
        assert script(change_id(2), expected) == -1
    assert script(change_id(2), 1) == 2, "a refused change may come again with what it saw"
    assert script.trail == [change_id(2).encode(), change_id(1).encode()]
    assert script(change_id(3), 2, above=40) == 41
    assert script(change_id(3), 2, above=40) == 41


def test_a_damaged_manifest_does_not_stand_in_the_way_of_a_roll_back(
    redis: fakeredis.FakeRedis, control: TrafficControl
) -> None:
    control.route("digits", {"1": 1})
    control.route("digits", {"2": 1})
    redis.hset(model_key("t", "digits"), "3", b"{}")
    assert control.roll_back("digits").changes == {"route": ("2=1", "1=1")}
    assert [*control.read("digits").manifests] == ["1", "2", "4"]
    with pytest.raises(VersionNotFound):
        control.route("digits", {"3": 1})


def test_names_of_the_one_who_asks() -> None:
    assert re.fullmatch(r"[^@]+@.+", whoami())
    assert TrafficControl(fakeredis.FakeRedis(), "t").who == whoami()
    assert Change(model="m", id="i", at=1, who="w", what="x").changes == {}
