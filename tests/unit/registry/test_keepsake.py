"""What can move about models is kept beside their artifacts, and comes back when Redis loses it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakeredis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from umbel_config.errors import ArtifactTampered, ModelError, ModelNotFound
from umbel_registry import ArtifactStore, Catalog, Manifest, TrafficControl
from umbel_registry.keepsake import Keepsake, Kept
from umbel_registry.keys import traffic_key
from umbel_registry.traffic import Canary, Traffic

Make = Callable[..., tuple[Path, Manifest]]
CANARY = Canary(
    version="3",
    steps=(10.0, 50.0),
    every_s=60,
    min_jobs=1,
    max_error_rate=0.1,
    since_ms=5,
    started_ms=5,
    by="bob@site",
    before={"2": 1.0},
    state="stepping",
    step=0,
)


class Site:
    """An installation with three versions of one model."""

    def __init__(self, store: ArtifactStore, make_manifest: Make, namespace: str = "test") -> None:
        self.redis, self.store = fakeredis.FakeRedis(), store
        self.catalog = Catalog(self.redis, namespace)
        for version in ("1", "2", "3"):
            store.put(*make_manifest(version, content=version.encode()))
        self.catalog.restore(store)
        self.control = TrafficControl(self.redis, namespace, who="ann@site")
        self.keepsake = Keepsake(store, self.control)

    def lose(self) -> None:
        self.redis.flushall()
        self.catalog.restore(self.store)

    @property
    def traffic(self) -> Traffic:
        return self.control.read("digits").traffic

    @property
    def number(self) -> int:
        return self.control.read("digits").number


@pytest.fixture(params=["local", "memory"])
def site(
    request: pytest.FixtureRequest,
    store: ArtifactStore,
    memory_store: ArtifactStore,
    make_manifest: Make,
) -> Site:
    return Site(store if request.param == "local" else memory_store, make_manifest)


@pytest.fixture
def local(store: ArtifactStore, make_manifest: Make) -> Site:
    return Site(store, make_manifest)


def kept(site: Site) -> Kept:
    found = site.keepsake.read("digits")
    assert found is not None
    return found


def test_everything_comes_back(site: Site) -> None:
    site.control.route("digits", {"2": 90, "3": 10}, {"1": 0.5})
    site.control.route("digits", {"2": 50, "3": 50}, {})
    site.control.alias("digits", {"production": "2"})
    site.control.set_policy("digits", "2", {"max_wait_ms": 2})
    site.control.retire("digits", "1", queued="reroute", to="2")
    before, number = site.traffic, site.number
    assert site.keepsake.keep("digits") == "kept"
    assert site.keepsake.keep("digits") == "known"
    site.lose()
    change = site.keepsake.restore("digits")
    assert site.traffic == before
    assert site.number == number + 1
    assert change is not None
    assert {*change.changes} == {"route", "alias production", "batching 2", "retired 1"}
    (line,) = site.control.history("digits")
    assert (line.what, line.why) == ("restore", f"as kept of change {number} by ann@site")
    assert site.keepsake.restore("digits") is None, "Redis has it now"
    assert site.keepsake.keep("digits") == "kept"
    assert kept(site).number == number + 1


def test_nothing_is_kept_or_put_back_where_nothing_ever_moved(site: Site) -> None:
    assert site.keepsake.keep("digits") == "nothing"
    assert site.keepsake.read("digits") is None
    assert site.keepsake.restore("digits") is None
    with pytest.raises(ModelNotFound):
        site.keepsake.keep("reader")


def test_nothing_is_kept_where_the_artifacts_are_not(local: Site, tmp_path: Path) -> None:
    local.control.alias("digits", {"production": "2"})
    elsewhere = ArtifactStore(tmp_path / "elsewhere")
    assert Keepsake(elsewhere, local.control).keep("digits") == "elsewhere"
    assert not (tmp_path / "elsewhere").exists()


def test_installations_that_share_a_root_keep_their_own(
    store: ArtifactStore, make_manifest: Make
) -> None:
    one = Site(store, make_manifest, "production")
    other = Site(store, make_manifest, "staging")
    one.control.alias("digits", {"best": "1"})
    other.control.alias("digits", {"best": "3"})
    assert (one.keepsake.keep("digits"), other.keepsake.keep("digits")) == ("kept", "kept")
    one.lose()
    one.keepsake.restore("digits")
    assert one.traffic.aliases == {"best": "1"}


def test_it_never_goes_back(local: Site) -> None:
    local.control.alias("digits", {"production": "2"})
    local.control.alias("digits", {"production": "3"})
    local.keepsake.keep("digits")
    local.lose()
    local.control.alias("digits", {"production": "1"})
    assert local.keepsake.keep("digits") == "ahead"
    assert (kept(local).number, kept(local).state.aliases) == (2, {"production": "3"})
    assert local.keepsake.restore("digits") is None, "Redis has routes of its own"
    change = local.keepsake.restore("digits", force=True)
    assert change is not None
    assert change.changes == {"alias production": ("1", "3")}
    assert local.number == 3
    assert local.keepsake.keep("digits") == "kept"


def test_what_is_as_it_was_kept_is_not_put_back(local: Site) -> None:
    local.control.alias("digits", {"production": "2"})
    local.keepsake.keep("digits")
    assert local.keepsake.restore("digits", force=True) is None
    assert local.number == 1


def test_a_dry_run_puts_nothing_back(local: Site) -> None:
    local.control.alias("digits", {"production": "2"})
    local.keepsake.keep("digits")
    local.lose()
    change = local.keepsake.restore("digits", dry_run=True)
    assert change is not None
    assert local.number == 0


def test_the_count_goes_on_though_nothing_is_left(local: Site) -> None:
    local.control.alias("digits", {"production": "2"})
    local.control.alias("digits", {"production": None})
    local.keepsake.keep("digits")
    local.lose()
    local.keepsake.restore("digits")
    assert local.number == 3


def test_one_that_is_overtaken_while_it_writes_writes_again(
    local: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.control.alias("digits", {"production": "1"})
    put, overtakers = local.store.put_traffic, [lambda: None]

    def slow(name: str, namespace: str, content: bytes) -> None:
        if overtakers:
            overtakers.pop()
            local.control.alias("digits", {"production": "2"})
            Keepsake(local.store, local.control).keep("digits")
        put(name, namespace, content)

    monkeypatch.setattr(local.store, "put_traffic", slow)
    assert local.keepsake.keep("digits") == "kept"
    assert (kept(local).number, kept(local).state.aliases) == (2, {"production": "2"})


def test_a_reader_never_sees_a_part_and_a_failure_leaves_nothing(
    local: Site, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.control.alias("digits", {"production": "1"})
    local.keepsake.keep("digits")
    local.control.alias("digits", {"production": "2"})

    def no_room(path: Path, target: object) -> Path:
        raise OSError("no room")

    monkeypatch.setattr(Path, "replace", no_room)
    with pytest.raises(OSError, match="no room"):
        local.keepsake.keep("digits")
    assert kept(local).number == 1
    names = {path.name for path in (root / "digits").iterdir()}
    assert names == {"1", "2", "3", "traffic-test.json"}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"number": 1}', '{"number": 1, "at": 1, "by": "", "state": {"x": 1}}']
)
def test_a_damaged_one_is_named_and_written_anew(local: Site, root: Path, text: str) -> None:
    local.control.alias("digits", {"production": "1"})
    place = root / "digits" / "traffic-test.json"
    place.write_text(text)
    with pytest.raises(ArtifactTampered, match=rf"{place}, where the routes of digits are kept"):
        local.keepsake.restore("digits", force=True)
    assert local.traffic.aliases == {"production": "1"}
    assert local.keepsake.keep("digits") == "kept"
    assert kept(local).state == local.traffic


def test_it_takes_the_place_of_what_cannot_be_read_in_redis(local: Site) -> None:
    local.control.alias("digits", {"production": "1"})
    local.keepsake.keep("digits")
    key = traffic_key("test", "digits")
    for state in ("{damaged", '{"of_another_release": 1}'):
        local.redis.hset(key, "state", state)
        with pytest.raises(ArtifactTampered, match="umbel models restore --traffic"):
            local.keepsake.restore("digits")
        assert local.keepsake.restore("digits", force=True) is not None
        assert local.traffic.aliases == {"production": "1"}
    number = local.number
    assert number > 2
    local.keepsake.keep("digits")
    local.redis.hset(key, mapping={"state": "", "number": "many"})
    local.keepsake.restore("digits", force=True)
    assert local.traffic.aliases == {"production": "1"}
    assert local.number > number


def test_an_empty_one_takes_the_place_of_what_cannot_be_read_too(local: Site) -> None:
    local.control.alias("digits", {"production": "1"})
    local.control.alias("digits", {"production": None})
    local.keepsake.keep("digits")
    local.redis.hset(traffic_key("test", "digits"), "state", "{damaged")
    local.keepsake.restore("digits", force=True)
    assert local.traffic == Traffic()
    assert local.number > 2


def test_a_canary_that_was_under_way_is_stopped(local: Site) -> None:
    local.control.route("digits", {"2": 90, "3": 10})
    local.control.change(
        "digits", "canary", lambda now: now.traffic.model_copy(update={"canary": CANARY})
    )
    route = local.traffic.route
    local.keepsake.keep("digits")
    local.lose()
    local.keepsake.restore("digits")
    stopped = {"state": "stopped", "reason": "Redis lost its data"}
    assert local.traffic.canary == CANARY.model_copy(update=stopped)
    assert local.traffic.route == route


def test_versions_that_are_gone_drop_out_of_the_route(local: Site, root: Path) -> None:
    local.control.route("digits", {"1": 1, "3": 1})
    local.control.route("digits", {"1": 80, "2": 20}, {"3": 0.5})
    local.control.alias("digits", {"next": "3"})
    before = local.traffic.route
    local.keepsake.keep("digits")
    (root / "digits" / "3" / "manifest.json").unlink()
    local.lose()
    change = local.keepsake.restore("digits")
    assert change is not None
    assert change.why.endswith("; not registered any more: 3")
    route = local.traffic.route
    assert route is not None
    assert before is not None
    assert (route.weights, route.shadows, route.table) == (before.weights, {}, before.table)
    assert route.number == before.number + 1
    assert [each.weights for each in local.traffic.earlier] == []
    assert local.traffic.aliases == {"next": "3"}, "it works again once the version is back"


def test_a_route_whose_versions_are_all_gone_says_so_at_submit(local: Site, root: Path) -> None:
    local.control.route("digits", {"3": 1})
    local.keepsake.keep("digits")
    (root / "digits" / "3" / "manifest.json").unlink()
    local.lose()
    local.keepsake.restore("digits")
    assert local.traffic.route is not None
    assert [*local.traffic.route.weights] == ["3"], "better than a version that nobody chose"


def test_it_can_be_read_by_people(local: Site, root: Path) -> None:
    local.control.alias("digits", {"production": "1"})
    local.keepsake.keep("digits")
    text = (root / "digits" / "traffic-test.json").read_text()
    assert '\n  "number": 1,\n' in text
    assert json.loads(text)["state"] == {"aliases": {"production": "1"}}


@pytest.fixture
def in_memory(memory_store: ArtifactStore, make_manifest: Make) -> Site:
    return Site(memory_store, make_manifest)


VERSIONS = st.sampled_from(["1", "2", "3"])
CHANGES = st.one_of(
    st.tuples(
        st.just("alias"),
        st.dictionaries(st.sampled_from("ab"), st.none() | VERSIONS, min_size=1),
    ),
    st.tuples(
        st.just("route"), st.dictionaries(VERSIONS, st.integers(1, 99), min_size=1, max_size=3)
    ),
    st.tuples(st.just("retire"), VERSIONS),
    st.tuples(st.just("bring_back"), VERSIONS),
    st.tuples(st.just("policy"), VERSIONS, st.integers(0, 99)),
)


@given(changes=st.lists(CHANGES, min_size=1, max_size=8))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_was_done_comes_back(in_memory: Site, changes: list[Any]) -> None:
    site = in_memory
    site.store.put_traffic("digits", "test", b"of the example before")
    site.lose()
    for verb, *words in changes:
        do_one(site.control, verb, words)
    site.keepsake.keep("digits")
    before, number = site.traffic, site.number
    site.lose()
    if number:
        site.keepsake.restore("digits")
        assert site.traffic == before
        assert site.number == number + 1


def do_one(control: TrafficControl, verb: str, words: list[Any]) -> None:
    try:
        if verb == "policy":
            control.set_policy("digits", words[0], {"max_wait_ms": words[1]})
        else:
            getattr(control, verb)("digits", *words)
    except ModelError:  # not everything can be done at any time
        return
