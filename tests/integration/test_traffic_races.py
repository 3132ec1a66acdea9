"""Changes of one model's traffic at the same time, and changes whose reply is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from umbel_config.connect import connect
from umbel_config.errors import RouteInvalid, StoreUnavailable, VersionExists
from umbel_registry import Catalog, Manifest, ModelFile
from umbel_registry.edits import Standing
from umbel_registry.manifest import build_manifest
from umbel_registry.paths import FileInfo
from umbel_registry.traffic import Traffic
from umbel_registry.traffic_control import TrafficControl


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
def control(store_redis: redis.Redis, namespace: str) -> TrafficControl:
    for version in ("1", "2", "3"):
        Catalog(store_redis, namespace).register(manifest(version))
    return TrafficControl(store_redis, namespace, who="others")


class Lossy:
    """A client whose replies to scripts are lost, each after the server has done its work.

    Args:
        url: of the server.
        times: how many replies are lost.
        meanwhile: called before each of these is sent again.
    """

    def __init__(
        self, url: str, times: int, meanwhile: Callable[[], object], retries: int | None = None
    ) -> None:
        self.lost = 0
        self.client = connect(url, retries=retries)
        pool = self.client.connection_pool
        kind: Any = pool.connection_class
        outer = self

        class Connection(kind):  # type: ignore[misc]
            _script = False

            def send_command(self, *args: Any, **kwargs: Any) -> None:
                super().send_command(*args, **kwargs)  # which may connect, with commands of its own
                self._script = args[0] == "EVALSHA"

            def read_response(self, *args: Any, **kwargs: Any) -> Any:
                reply = super().read_response(*args, **kwargs)
                if self._script and outer.lost < times:
                    outer.lost += 1
                    self.disconnect()
                    meanwhile()
                    raise redis.ConnectionError("the reply is lost")
                return reply

        pool.connection_class = Connection


@pytest.fixture
def lossy(redis_url: str, control: TrafficControl) -> Iterator[Callable[..., Lossy]]:
    made: list[Lossy] = []

    def make(times: int, meanwhile: Callable[[], object] = lambda: None, **options: Any) -> Lossy:
        made.append(Lossy(redis_url, times, meanwhile, **options))
        return made[-1]

    yield make
    for each in made:
        each.client.close()


def rolling(control: TrafficControl) -> None:
    """Four routes, of which a roll-back that is done twice would skip one."""
    for weights in ({"1": 1}, {"2": 1}, {"3": 1}, {"1": 1, "2": 1}):
        control.route("digits", weights)


@pytest.mark.parametrize("between", [0, 1, 16])
def test_change_whose_reply_is_lost_is_made_once(
    control: TrafficControl,
    lossy: Callable[..., Lossy],
    store_redis: redis.Redis,
    namespace: str,
    between: int,
) -> None:
    """However many others change something else before it is sent again."""
    Catalog(store_redis, namespace).register(manifest("4"))
    rolling(control)

    def meanwhile() -> None:
        for place in range(between):
            control.alias("digits", {f"name-{place}": "4"})

    store = lossy(1, meanwhile)
    mine = TrafficControl(store.client, namespace, who="me")
    change = mine.roll_back("digits")
    assert store.lost == 1
    now = control.read("digits")
    assert now.number == 5 + between
    assert now.route is not None
    assert (now.route.weights, now.route.number) == ({"3": 1.0}, 5)
    assert len(now.traffic.aliases) == between
    trail = control.history("digits")
    assert [each for each in trail if each.who == "me"] == [change]
    assert len(trail) == 5 + between


def test_replies_that_are_lost_again_and_again_make_one_change(
    control: TrafficControl, lossy: Callable[..., Lossy], namespace: str
) -> None:
    rolling(control)
    store = lossy(3)
    TrafficControl(store.client, namespace).roll_back("digits")
    assert store.lost == 3
    assert control.read("digits").number == 5


def test_one_who_gives_up_cannot_know_and_is_told_so(
    control: TrafficControl, lossy: Callable[..., Lossy], namespace: str
) -> None:
    """The change is made, once; who looks at the history sees it."""
    store = lossy(1, retries=0)
    with pytest.raises(StoreUnavailable):
        TrafficControl(store.client, namespace, who="me").route("digits", {"1": 1})
    assert [change.who for change in control.history("digits")] == ["me"]
    assert control.read("digits").number == 1


def test_changes_at_the_same_time_are_all_made_one_after_the_other(
    control: TrafficControl, redis_url: str, namespace: str
) -> None:
    begin, failures = threading.Barrier(4), list[Exception]()

    def work(name: str) -> None:
        with connect(redis_url) as client:
            mine = TrafficControl(client, namespace, who=name)

            def count(now: Standing) -> Traffic:
                wanted = now.traffic.wanted
                aliases = {**now.traffic.aliases, f"{name}-{wanted.get(name, 0)}": "1"}
                more = {**wanted, name: wanted.get(name, 0) + 1}
                return now.traffic.model_copy(update={"aliases": aliases, "wanted": more})

            begin.wait()
            try:
                for _ in range(8):
                    mine.change("digits", "count", count)
            except Exception as error:  # noqa: BLE001  (any is a failure of the test)
                failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b", "c", "d")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    now = control.read("digits")
    assert now.traffic.wanted == {"a": 8, "b": 8, "c": 8, "d": 8}
    assert now.number == len(now.traffic.aliases) == len(control.history("digits")) == 32


def test_name_is_either_an_alias_or_a_version_whoever_is_first(
    control: TrafficControl, redis_url: str, namespace: str
) -> None:
    def push(name: str, begin: threading.Barrier) -> bool:
        with connect(redis_url) as client:
            catalog = Catalog(client, namespace)
            begin.wait()
            try:
                return catalog.register(manifest(name))
            except VersionExists:
                return False

    for round_number in range(10):
        name, begin = f"v{round_number}", threading.Barrier(2)
        with ThreadPoolExecutor(1) as pool:
            pushed = pool.submit(push, name, begin)
            begin.wait()
            try:
                control.alias("digits", {name: "1"})
                named = True
            except RouteInvalid:
                named = False
            assert pushed.result(timeout=20) is not named
        now = control.read("digits")
        assert (name in now.manifests) is not (name in now.traffic.aliases)
