"""Loads beside running batches take short turns, and the collector spares what stays for good."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from umbel_config.settings import load_settings
from umbel_registry import Manifest
from umbel_worker import pauses, runtime, warmup
from umbel_worker.pauses import TURN_S, ShortTurns, spare_what_stays


@pytest.fixture(autouse=True)
def usual() -> Iterator[Any]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.005)
    yield pytest.approx(0.005)
    sys.setswitchinterval(before)


@pytest.fixture
def thawed() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_turns_are_short_until_the_last_one_has_left(usual: Any) -> None:
    turns, seen = ShortTurns(), []
    with turns:
        with turns:
            seen.append(sys.getswitchinterval())
        seen.append(sys.getswitchinterval())
    assert seen == [pytest.approx(TURN_S)] * 2
    assert sys.getswitchinterval() == usual


def test_turns_are_as_before_after_an_error(usual: Any) -> None:
    with pytest.raises(ZeroDivisionError), ShortTurns():
        _ = 1 / 0
    assert sys.getswitchinterval() == usual


def test_turns_that_are_shorter_already_stay() -> None:
    sys.setswitchinterval(TURN_S / 2)
    with ShortTurns():
        assert sys.getswitchinterval() < TURN_S


def test_a_model_is_loaded_and_warmed_in_short_turns(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, usual: Any
) -> None:
    seen: list[float] = []

    def note(*_: Any, **__: Any) -> Any:
        seen.append(sys.getswitchinterval())
        return ()

    class Store:
        fetch = note

    class Described:
        class policy:  # noqa: N801
            mode = "static"
            max_batch_size = 4

    monkeypatch.setattr(warmup, "load_model", note)
    monkeypatch.setattr(warmup, "warm_up", note)
    described: Any = Described
    manifest: Manifest = described
    store: Any = Store()
    warmup.load_warm(manifest, store, load_settings(state_dir=tmp_path, device="cpu"))
    assert seen == [pytest.approx(TURN_S)] * 3
    assert sys.getswitchinterval() == usual


def test_what_torch_imports_late_is_there_before(thawed: None) -> None:
    spare_what_stays()
    assert pauses._LATE in sys.modules


def test_the_collector_looks_only_at_what_came_later(thawed: None) -> None:
    spare_what_stays()
    assert gc.get_freeze_count() > 1000
    later = [object() for _ in range(3)]
    assert any(each is later for each in gc.get_objects())
    assert len(gc.get_objects()) < 1000


def test_a_process_spares_what_it_loaded_before_it_loads_a_model(
    monkeypatch: pytest.MonkeyPatch, thawed: None
) -> None:
    counts: list[int] = []

    class Made:
        drainer = steward = mirror = None

        def start(self) -> None:
            counts.append(gc.get_freeze_count())

        def stop(self) -> None:
            counts.append(0)

    made: Any = Made()
    made.steward = made.mirror = made
    made.drainer = object()
    monkeypatch.setattr(runtime, "_made", None)
    monkeypatch.setattr(runtime, "find_store", lambda settings: settings)
    monkeypatch.setattr(runtime, "make_process", lambda settings, stop: made)
    runtime.begin()
    runtime.end()
    assert counts[0] > 1000
    assert counts[1:] == [0, 0]
    assert runtime.drainer() is made.drainer, "a drain that begins late loads nothing anew"
    assert len(counts) == 3
