"""What a process knows of routes and retired versions follows the registry, also after a loss."""

from __future__ import annotations

from collections.abc import Callable

import fakeredis
import pytest

from umbel_registry import Catalog, TrafficControl
from umbel_registry.manifest import ModelFile, build_manifest
from umbel_worker.board import Board


@pytest.fixture
def register(store: fakeredis.FakeRedis) -> Callable[..., None]:
    def make(*versions: str) -> None:
        floats = {"dtype": "float32", "shape": [4]}
        model = ModelFile.model_validate(
            {"name": "digits", "format": "handler", "handler": "a:B"}
            | {"inputs": {"x": floats}, "outputs": {"y": floats}}
        )
        for version in versions:
            Catalog(store, "t").register(build_manifest(model, {}, version))

    return make


def test_models_without_traffic_are_not_read(
    store: fakeredis.FakeRedis, register: Callable[..., None]
) -> None:
    register("1")
    board = Board(store, "t")
    assert board.of("digits") is None
    assert board.number("digits") == 0
    assert board.order("digits@1").name == "digits@1"
    assert board.all() == []


def test_changes_are_seen_once_the_registry_has_moved(
    store: fakeredis.FakeRedis, register: Callable[..., None]
) -> None:
    register("1", "2")
    board, control = Board(store, "t"), TrafficControl(store, "t")
    control.route("digits", {"1": 1})
    assert board.refresh()
    first = board.of("digits")
    assert not board.refresh()
    register("3")
    assert board.refresh()
    assert board.of("digits") is first, "its traffic has not changed"
    control.retire("digits", "2", queued="reroute")
    board.refresh()
    assert (board.order("digits@2").name, board.order("digits@2").ran) == ("digits@1", "1")


def test_the_same_number_of_changes_after_a_loss_of_data_is_another_state(
    store: fakeredis.FakeRedis, register: Callable[..., None]
) -> None:
    board, control = Board(store, "t"), TrafficControl(store, "t")
    register("1", "2")
    control.route("digits", {"1": 1})
    board.refresh()
    store.flushall()
    register("1", "2", "3")
    control.route("digits", {"2": 1})
    board.refresh()
    standing = board.of("digits")
    assert standing is not None
    assert standing.traffic.route is not None
    assert standing.traffic.route.weights == {"2": 1}
