"""Many models under a budget: who is unloaded and when, whom nobody may unload, who has to wait."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import torch

from umbel_config.errors import ModelLoadFailed, ModelNotFound, ModelUnavailable, StoreUnavailable
from umbel_config.settings import Settings
from umbel_registry import Manifest
from umbel_registry.loading import ArrayModel
from umbel_registry.manifest import ModelFile, build_manifest
from umbel_registry.paths import FileInfo
from umbel_worker import models
from umbel_worker.footprint import MB
from umbel_worker.models import FRESH_S, ModelCache, NoRoom
from umbel_worker.warmup import Warm

FLOATS = {"dtype": "float32", "shape": [1]}


class Plus(torch.nn.Module):
    """Adds a number of its own; holds some MB."""

    def __init__(self, number: int, mb: int) -> None:
        super().__init__()
        self.number = number
        self.register_buffer("weights", torch.zeros(mb * MB, dtype=torch.uint8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.number


class Shelf:
    """A catalogue of made-up models, and what becomes of loading them.

    Attributes:
        sizes: MB that each model holds, by name.
        files: MB of its files, where these differ.
        errors: what loading it raises.
        gates: events that loading it waits for.
        loads: names, in the order in which they were loaded.
    """

    def __init__(self, sizes: dict[str, int]) -> None:
        self.sizes = {f"{name}@1": mb for name, mb in sizes.items()}
        self.files: dict[str, int] = {}
        self.errors: dict[str, Exception] = {}
        self.gates: dict[str, threading.Event] = {}
        self.loads: list[str] = []
        self.now = 1000.0

    def get(self, model: str, version: str) -> Manifest:
        name = f"{model}@{version}"
        if name not in self.sizes:
            raise self.errors.get(name, ModelNotFound(f"no model {model}"))
        number = f"{list(self.sizes).index(name):064d}"
        mb = self.files.get(name, self.sizes[name])
        about = ModelFile.model_validate(
            {
                "name": model,
                "format": "torchscript",
                "weights": "m.pt",
                "inputs": {"x": FLOATS},
                "outputs": {"y": FLOATS},
            }
        )
        return build_manifest(about, {"m.pt": FileInfo(sha256=number, bytes=mb * MB)}, version)

    def find(self, model: str, version: str) -> None:
        """Nothing is stored beside what is registered."""

    def load(self, manifest: Manifest, *_: Any) -> Warm:
        name = f"{manifest.name}@{manifest.version}"
        self.loads.append(name)
        if name in self.gates:
            assert self.gates[name].wait(20)
        if name in self.errors:
            raise self.errors[name]
        number = list(self.sizes).index(name)
        return Warm(ArrayModel(Plus(number, self.sizes[name]), manifest, "cpu"), 0.5, 0.25)

    def answers(self, model: Any) -> bool:
        """Whether a model of this shelf gives its own answers."""
        number = list(self.sizes).index(f"{model.manifest.name}@1")
        x = torch.full((2, 1), 3.0)
        return bool((model.forward({"x": x})["y"] == 3 + number).all())


Make = Callable[..., ModelCache]


@pytest.fixture
def shelf() -> Shelf:
    return Shelf({"a": 30, "b": 30, "c": 30, "d": 30, "huge": 150})


@pytest.fixture
def make(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a cache of the shelf's models with a budget of 100 MB."""
    monkeypatch.setattr(models, "load_warm", shelf.load)
    monkeypatch.setattr(models, "held_bytes", lambda device: 0)

    def cache(on_change: Callable[[], None] | None = None, **given: Any) -> ModelCache:
        settings = Settings(**{"max_loaded_mb": 100, "device": "cpu", **given})
        shown: Any = shelf
        return ModelCache(shown, shown, settings, on_change=on_change, clock=lambda: shelf.now)

    return cache


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def use(cache: ModelCache, shelf: Shelf, *names: str) -> None:
    for name in names:
        shelf.now += 1
        with cache.using(f"{name}@1") as model:
            assert shelf.answers(model)
            del model  # what still refers to a model is looked for by the garbage collector


def names(cache: ModelCache) -> str:
    return " ".join(each.name.removesuffix("@1") for each in cache.holdings())


class Drain:
    """Uses a model in a thread until it is told to end."""

    def __init__(self, pool: ThreadPoolExecutor, cache: ModelCache, name: str) -> None:
        self._cache, self._name = cache, name
        self._entered, self._over = threading.Event(), threading.Event()
        self._run: Future[None] = pool.submit(self._use)
        assert self._entered.wait(20)

    def end(self) -> None:
        self._over.set()
        self._run.result(20)

    def _use(self) -> None:
        with self._cache.using(self._name):
            self._entered.set()
            assert self._over.wait(20)
            (held,) = (each for each in self._cache.holdings() if each.name == self._name)
            assert held.state == "ready", "it was unloaded under our hands"


def test_least_recently_used_is_unloaded_and_reloaded_on_demand(make: Make, shelf: Shelf) -> None:
    cache = make()
    use(cache, shelf, "a", "b", "c", "a", "d")
    assert names(cache) == "a c d"
    use(cache, shelf, "b")
    assert names(cache) == "a b d"
    assert shelf.loads == ["a@1", "b@1", "c@1", "d@1", "b@1"]


def test_without_a_budget_everything_stays(make: Make, shelf: Shelf) -> None:
    cache = make(max_loaded_mb=0)
    use(cache, shelf, "a", "b", "c", "d", "huge")
    assert names(cache) == "a b c d huge"


def test_pinned_models_stay(make: Make, shelf: Shelf) -> None:
    cache = make(pinned_models=("a", "b@1"))
    use(cache, shelf, "a", "b", "c", "d")
    assert names(cache) == "a b d"
    assert [each.pinned for each in cache.holdings()] == [True, True, False]
    assert not cache.unload("a@1")


def test_unload_leaves_alone_what_is_in_use(make: Make, shelf: Shelf) -> None:
    cache = make()
    with cache.using("a@1") as model:
        assert not cache.unload("a@1")
        assert shelf.answers(model)
    assert cache.unload("a@1")
    assert names(cache) == ""
    assert not cache.unload("a@1")


def test_model_in_use_is_not_unloaded_for_another(
    make: Make, shelf: Shelf, pool: ThreadPoolExecutor
) -> None:
    cache = make()
    drain = Drain(pool, cache, "a@1")
    use(cache, shelf, "b", "c", "d")
    assert names(cache) == "a c d"
    drain.end()


def test_load_waits_for_a_drain_that_is_in_the_way(
    make: Make, shelf: Shelf, pool: ThreadPoolExecutor, wait_until: Any
) -> None:
    cache = make(max_loaded_mb=70)
    first, second = Drain(pool, cache, "a@1"), Drain(pool, cache, "b@1")
    waiting = pool.submit(use, cache, shelf, "c")
    wait_until(lambda: cache._held.get("a@1").leaving, "it waits for the older one")  # type: ignore[union-attr]
    late = pool.submit(use, cache, shelf, "a")
    use(cache, shelf, "b")  # nobody needs to wait for that one
    first.end()
    waiting.result(20)  # ended first, the other would make room as well
    second.end()
    late.result(20)
    assert shelf.loads == ["a@1", "b@1", "c@1", "a@1"]


def test_drain_that_ends_while_others_are_unloaded_is_noticed(
    make: Make, shelf: Shelf, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two looks for room there is nobody left to wake the one who waits."""
    monkeypatch.setattr(models, "BATCH_S", 3600.0)
    shelf.sizes["c@1"] = 60
    over: list[Drain] = []

    def told() -> None:
        if over and names(cache) == "a c":
            over.pop().end()

    cache = make(told, max_loaded_mb=70)
    over.append(Drain(pool, cache, "a@1"))
    use(cache, shelf, "b", "c")
    assert names(cache) == "c"


def test_load_waits_in_vain_only_for_so_long(
    make: Make, shelf: Shelf, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "BATCH_S", 0.05)
    cache = make(max_loaded_mb=40, drain_budget_ms=1)
    drain = Drain(pool, cache, "a@1")
    with pytest.raises(ModelUnavailable, match=r"c@1 needs about 30 MB.* in use .* by a@1\."):
        use(cache, shelf, "c")
    assert names(cache) == "a", "a lack of room says nothing of a model"
    use(cache, shelf, "a")  # it was asked to leave, and may stay after all
    drain.end()
    use(cache, shelf, "c")
    assert names(cache) == "c"


def test_model_larger_than_the_budget_is_loaded_alone_with_one_warning(
    make: Make, shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    cache = make(pinned_models=("d",))
    use(cache, shelf, "a", "d", "huge", "huge")
    assert names(cache) == "d huge"
    assert shelf.loads.count("huge@1") == 1
    use(cache, shelf, "a", "huge")
    assert caplog.text.count("more than max_loaded_mb (100)") == 1


def test_model_that_is_larger_than_its_files_makes_others_go(make: Make, shelf: Shelf) -> None:
    shelf.files["c@1"] = 1
    cache = make(max_loaded_mb=70)
    use(cache, shelf, "a", "b", "c")
    assert names(cache) == "b c"
    use(cache, shelf, "a", "b")
    shelf.loads.clear()
    use(cache, shelf, "c")
    assert names(cache) == "b c", "what it takes is known by now"


def test_surplus_goes_as_soon_as_nobody_uses_it(
    make: Make, shelf: Shelf, pool: ThreadPoolExecutor
) -> None:
    shelf.files["c@1"] = 1
    cache = make(max_loaded_mb=70)
    first, second = Drain(pool, cache, "a@1"), Drain(pool, cache, "b@1")
    third = Drain(pool, cache, "c@1")
    second.end()
    assert names(cache) == "a c"
    first.end()
    third.end()
    assert names(cache) == "a c"


def test_preload_takes_nothing_from_those_that_were_used_lately(make: Make, shelf: Shelf) -> None:
    cache = make(max_loaded_mb=70, pinned_models=("b",))
    use(cache, shelf, "a", "b")
    assert not cache.preload("c@1")
    assert (names(cache), shelf.loads) == ("a b", ["a@1", "b@1"])
    shelf.now += FRESH_S
    assert cache.preload("c@1")
    assert names(cache) == "b c"
    assert cache.preload("c@1")
    assert shelf.loads == ["a@1", "b@1", "c@1"]
    shelf.now += FRESH_S
    with cache.using("c@1"):
        assert not cache.preload("d@1"), "the one is pinned, the other in use"


def test_preload_takes_nothing_from_those_that_are_wanted_more(make: Make, shelf: Shelf) -> None:
    """Else the wanted ones would displace each other for ever where not all find room."""
    cache = make(max_loaded_mb=70)
    assert cache.preload("a@1")
    assert cache.preload("b@1")
    shelf.now += FRESH_S + 1
    assert not cache.preload("c@1", ["a@1", "b@1"])
    assert names(cache) == "a b"
    assert cache.preload("c@1", ["b@1"])
    assert names(cache) == "b c"


def test_preload_of_what_turns_out_too_large_is_taken_back(make: Make, shelf: Shelf) -> None:
    shelf.files["c@1"] = shelf.files["huge@1"] = 1
    cache = make(max_loaded_mb=70)
    use(cache, shelf, "a", "b")
    assert not cache.preload("c@1")
    assert names(cache) == "a b"
    assert not cache.preload("c@1")
    assert shelf.loads.count("c@1") == 1, "what it takes is known by now"
    shelf.now += FRESH_S
    assert not cache.preload("huge@1")


def test_preload_and_use_at_once_load_once(
    make: Make, shelf: Shelf, pool: ThreadPoolExecutor, wait_until: Any
) -> None:
    gate = shelf.gates["a@1"] = threading.Event()
    cache = make()
    early = pool.submit(cache.preload, "a@1")
    wait_until(lambda: shelf.loads, "it is being loaded")
    assert [each.state for each in cache.holdings()] == ["loading"]
    assert not cache.unload("a@1")
    others: list[Future[Any]] = [pool.submit(use, cache, shelf, "a")]
    others.append(pool.submit(cache.preload, "a@1"))
    gate.set()
    assert early.result(20)
    assert [other.result(20) for other in others] == [None, True]
    assert shelf.loads == ["a@1"]


def test_those_who_wait_for_a_load_hear_why_it_failed(
    make: Make, shelf: Shelf, pool: ThreadPoolExecutor, wait_until: Any
) -> None:
    gate = shelf.gates["a@1"] = threading.Event()
    shelf.errors["a@1"] = ModelLoadFailed("no such operator")
    cache = make()
    runs: list[Future[Any]] = [pool.submit(use, cache, shelf, "a")]
    runs.append(pool.submit(cache.preload, "a@1"))
    wait_until(lambda: shelf.loads, "it is being loaded")
    gate.set()
    for run in runs:
        with pytest.raises(ModelLoadFailed, match="no such operator"):
            run.result(20)
    (held,) = cache.holdings()
    assert (held.state, held.error) == ("failed", "ModelLoadFailed: no such operator")
    del shelf.errors["a@1"]
    use(cache, shelf, "a")
    assert [each.state for each in cache.holdings()] == ["ready"]


def test_failures_of_the_store_say_nothing_of_a_model(make: Make, shelf: Shelf) -> None:
    shelf.errors["e@1"] = StoreUnavailable("Redis went away")
    cache = make()
    with pytest.raises(StoreUnavailable):
        cache.preload("e@1")
    assert cache.holdings() == []
    with pytest.raises(ModelNotFound):
        cache.preload("f@1")
    assert names(cache) == "f"


def test_every_change_is_told_with_no_lock_held(
    make: Make, shelf: Shelf, pool: ThreadPoolExecutor
) -> None:
    seen: list[str] = []

    def told() -> None:
        held = pool.submit(cache.holdings).result(20)
        seen.append(" ".join(f"{each.name[0]}:{each.state}" for each in held))

    cache = make(told, max_loaded_mb=40)
    use(cache, shelf, "a", "b")
    assert seen == ["a:loading", "a:ready", "a:ready b:loading", "b:loading", "b:ready"]
    seen.clear()
    assert not cache.preload("c@1")
    assert seen == ["b:ready c:loading", "b:ready"]
    seen.clear()
    shelf.errors["c@1"] = OSError("away")
    with pytest.raises(OSError, match="away"):
        use(cache, shelf, "c")
    assert seen == ["b:ready c:loading", "c:loading", "c:failed"]
    seen.clear()
    assert not cache.unload("c@1")
    use(cache, shelf, "a")
    assert cache.unload("a@1")
    assert seen == ["a:loading c:failed", "a:ready c:failed", "c:failed"]


def test_whoever_is_told_may_fail(
    make: Make, shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    def told() -> None:
        raise RuntimeError("nobody listens")

    use(make(told), shelf, "a")
    assert "nobody listens" in caplog.text


def test_many_threads_at_once_get_the_right_answers_within_the_budget(
    make: Make, shelf: Shelf, pool: ThreadPoolExecutor
) -> None:
    shelf.sizes = {f"m{at}@1": 1 + at % 2 for at in range(8)}
    totals: list[float] = []

    def told() -> None:
        totals.append(sum(each.mb for each in cache.holdings()))

    cache = make(told, max_loaded_mb=4, pinned_models=("m0",))

    def hammer(seed: int) -> int:
        order, right = random.Random(seed), 0
        for _ in range(150):
            name = f"m{order.randrange(8)}@1"
            match order.randrange(6):
                case 0:
                    cache.preload(name)
                case 1:
                    cache.unload(name)
                case _:
                    with cache.using(name) as model:
                        right += shelf.answers(model)
                        del model
                        assert name in {each.name for each in cache.holdings()}
        return right

    runs = [pool.submit(hammer, seed) for seed in range(4)]
    rights = [run.result(60) for run in runs]
    assert min(rights) > 60
    assert max(totals) <= 4
    assert all(not place.users and not place.leaving for place in cache._held._places.values())
    assert len(shelf.loads) > 20


def test_no_room_is_a_reason_to_wait_not_to_fail() -> None:
    assert issubclass(NoRoom, ModelUnavailable)
    assert NoRoom.retryable
