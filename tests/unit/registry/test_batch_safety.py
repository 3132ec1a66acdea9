"""Models whose rows depend on each other, on padding or on chance are told from all others."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from umbel_config.errors import BatchUnsafe, ModelFolderInvalid
from umbel_registry import ModelFile
from umbel_registry.batch_safety import batch_variance
from umbel_registry.dryrun import dry_run
from umbel_registry.loading import ArrayModel, HandlerModel, LoadedModel

Rows = list[Any]
TEXT = {"dtype": "string"}
JSON = {"dtype": "json"}


def spec(*shape: int, dtype: str = "float32", **keys: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), **keys}


VECTOR = spec(4)
LENGTH = spec(-1)
TOKENS = spec(-1, dtype="int64", mask="mask")


def described(inputs: dict[str, Any], outputs: dict[str, Any], **keys: Any) -> ModelFile:
    several = {"inputs": inputs, "outputs": outputs}
    named = {
        which: {"x" if which == "inputs" else "y": given} if "dtype" in given else given
        for which, given in several.items()
    }
    return ModelFile.model_validate({"name": "m", **named, **keys})


def of(run: Callable[..., Any], inputs: Any, outputs: Any, **keys: Any) -> ArrayModel:
    """A model that is ``run``, without a file."""
    model = described(inputs, outputs, format="torch_export", weights="model.pt2", **keys)
    return ArrayModel(run, model, "cpu")


def handled(run: Callable[[Rows], Any], inputs: Any, outputs: Any, **keys: Any) -> HandlerModel:
    class Handler:
        def forward(self, batch: Rows) -> Any:
            return run(batch)

    model = described(inputs, outputs, format="handler", handler="some:Handler", **keys)
    return HandlerModel(Handler(), model, "cpu")


def checked(model: LoadedModel) -> float | None:
    dry_run(model)
    return batch_variance(model)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        yield


class Recurrent(torch.nn.Module):
    """The state after the last real step."""

    def __init__(self, kind: type[torch.nn.GRU | torch.nn.LSTM]) -> None:
        super().__init__()
        self.net = kind(3, 5, batch_first=True)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        states: torch.Tensor = self.net(x)[0]
        if mask is None:
            return states[:, -1]
        return states[torch.arange(len(x)), mask.sum(1) - 1]


class Transformer(torch.nn.Module):
    """One number per token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(10, 8)
        self.layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.layer(self.embed(tokens), src_key_padding_mask=~mask).sum(-1)  # type: ignore[no-any-return]


def layers() -> torch.nn.Sequential:
    return torch.nn.Sequential(
        torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.Dropout(), torch.nn.Linear(6, 3)
    )


def largest(run: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *given: run(*given).argmax(-1)


def scores(rows: Rows) -> Rows:
    return [{"label": row.upper(), "scores": [len(row) / 7, 1.0, None]} for row in rows]


def doubled_in_place(rows: Rows) -> Rows:
    return [np.multiply(row, 2, out=row) for row in rows]


HARMLESS: dict[str, Callable[[], LoadedModel]] = {
    "batch norm in evaluation mode": lambda: of(layers().eval(), VECTOR, spec(3)),
    "masked GRU": lambda: of(Recurrent(torch.nn.GRU).eval(), spec(-1, 3, mask="mask"), spec(5)),
    "masked LSTM": lambda: of(Recurrent(torch.nn.LSTM).eval(), spec(-1, 3, mask="mask"), spec(5)),
    "transformer": lambda: of(Transformer().eval(), TOKENS, LENGTH),
    "whole numbers": lambda: of(largest(layers().eval()), VECTOR, spec(dtype="int64")),
    "half precision": lambda: of(
        layers().half().eval(), spec(4, dtype="float16"), spec(3, dtype="float16")
    ),
    "several inputs and outputs": lambda: of(
        lambda a, b: {"sum": a + b, "up": a > b},
        {"a": VECTOR, "b": VECTOR},
        {"sum": VECTOR, "up": spec(4, dtype="bool")},
    ),
    "nothing but NaN": lambda: of(lambda x: x * torch.nan, VECTOR, VECTOR),
    "values that cancel": lambda: of(
        lambda x: x @ torch.ones(4, 2) / 4 - x.mean(1, keepdim=True), VECTOR, spec(2)
    ),
    "text": lambda: handled(scores, TEXT, JSON),
    "a handler that writes into its inputs": lambda: handled(doubled_in_place, VECTOR, VECTOR),
    "floats that are indices": lambda: of(
        lambda x: torch.arange(10.0)[x.long()], VECTOR, VECTOR, examples=[[1, 2, 3, 4]]
    ),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_a_harmless_model_passes(name: str) -> None:
    assert checked(HARMLESS[name]()) is None


NEIGHBOURS = r"BatchNorm in a module .* training mode \(call model\.eval\(\) before the export\)"
CHANCE = r"run twice, differs by .* dropout in a module that was exported in training mode"
PADDING = r"Only rows that were padded differ.*declare a mask"


count = itertools.count()


def counted(rows: Rows) -> Rows:
    return [next(count) for _ in rows]


def share_of_all(rows: Rows) -> Rows:
    return [{"share": len(row) / sum(map(len, rows))} for row in rows]


SOFTMAX = (
    r"row \d of output 'y', alone and in a batch of 8 after other rows with values 16 times as "
    r"large, differs by .*; rounding explains 0\.0001 \(.*softmax\(dim=0\)"
)
HARMFUL: dict[str, tuple[Callable[[], LoadedModel], str]] = {
    "a softmax over the batch": (
        lambda: of(lambda x: x.softmax(0), VECTOR, VECTOR),
        SOFTMAX,
    ),
    "one scale for the whole batch": (
        lambda: of(lambda x: x / x.abs().max(), VECTOR, VECTOR, examples=[[1, 2, 3, 4]]),
        rf"differs by 0\.9375; .*{NEIGHBOURS}",
    ),
    "whole numbers that depend on the batch": (
        lambda: of(largest(lambda x: x - x.mean(0)), VECTOR, spec(dtype="int64")),
        "differs by [123]; whole numbers and truth values must be equal",
    ),
    "one output of two": (
        lambda: of(lambda x: (x, x - x.mean(0)), VECTOR, {"good": VECTOR, "bad": VECTOR}),
        "of output 'bad', alone and in a batch of",
    ),
    "dropout": (lambda: of(torch.nn.Dropout().train(), VECTOR, VECTOR), CHANCE),
    "a counter": (
        lambda: handled(counted, TEXT, spec(dtype="int64")),
        "run twice, differs by .*state that is kept from run to run",
    ),
    "a mean over padding": (lambda: of(lambda x: x.mean(1), LENGTH, spec()), PADDING),
    "a state after padding": (
        lambda: of(Recurrent(torch.nn.GRU).eval(), spec(-1, 3), spec(5)),
        PADDING,
    ),
    "an output of half the length": (
        lambda: of(lambda x: x[:, ::2], LENGTH, LENGTH),
        r"row 0 of output 'y', alone and in a batch of 4, has shape \[4\] and \[7\]",
    ),
    "a handler's floats": (
        lambda: handled(share_of_all, TEXT, JSON),
        r"row \d of output 'y'\.share, alone and in a batch of 8 after other rows, differs by 0\.",
    ),
    "a handler's text": (
        lambda: handled(lambda rows: [f"{row} {len(rows)}" for row in rows], TEXT, TEXT),
        "row 0 of output 'y', alone and in a batch of 4, is not the same",
    ),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_a_model_whose_outputs_vary_is_refused_with_numbers_or_admitted(name: str) -> None:
    make, sentence = HARMFUL[name]
    with pytest.raises(BatchUnsafe, match=f"^Batch safety of m: .*{sentence}") as refused:
        checked(make())
    assert str(refused.value).endswith("or admit it as it is with --accept-batch-variance.")
    assert refused.value.variance
    variance = batch_variance(make(), accept=True)
    assert variance is not None
    assert 0.05 < variance <= 2


MIXED_UP: dict[str, Callable[[], LoadedModel]] = {
    "reversed rows": lambda: handled(
        lambda rows: [len(row) for row in rows][::-1], TEXT, spec(dtype="int64")
    ),
    "sorted rows": lambda: of(lambda x: x.sort(0).values, spec(), spec()),
    "rows turned round by two": lambda: of(lambda x: x.roll(2, 0), VECTOR, VECTOR),
}


@pytest.mark.parametrize("name", MIXED_UP)
def test_rows_in_a_wrong_order_are_refused_whatever_is_accepted(name: str) -> None:
    model = MIXED_UP[name]()
    dry_run(model)
    sentence = r"in a batch of 4, the place of row \d holds what row \d gives alone"
    for accept in (False, True):
        with pytest.raises(BatchUnsafe, match=sentence) as refused:
            batch_variance(model, accept=accept)
        assert refused.value.variance is None
        assert "--accept" not in str(refused.value)


def test_rows_that_are_lost_in_a_larger_batch_are_refused_whatever_is_accepted() -> None:
    model = of(lambda x: x[:5], VECTOR, VECTOR)
    dry_run(model)
    with pytest.raises(ModelFolderInvalid, match="returned 5 rows for a batch of 8"):
        batch_variance(model, accept=True)


def test_rows_that_are_lost_where_texts_are_equal_are_refused() -> None:
    with pytest.raises(ModelFolderInvalid, match="returned 1 rows for a batch of 3"):
        dry_run(handled(lambda rows: [len(row) for row in set(rows)], TEXT, spec(dtype="int64")))


def test_batch_norm_that_refuses_one_row_is_explained() -> None:
    sentence = r"with 1 made-up rows failed: ValueError: Expected more than 1 value .* Likely cause"
    with pytest.raises(ModelFolderInvalid, match=rf"{sentence}.*BatchNorm.*model\.eval\(\)"):
        dry_run(of(layers().train(), VECTOR, spec(3)))


def noisy(x: torch.Tensor) -> torch.Tensor:
    return x * (1 + 1e-3 * (len(x) > 1))


def test_half_precision_inside_a_model_of_float32_widens_what_rounding_explains() -> None:
    with pytest.raises(BatchUnsafe, match=r"rounding explains .* \(0\.0001 of"):
        checked(of(noisy, VECTOR, VECTOR))
    assert checked(of(lambda x: noisy(x.bfloat16().float()), VECTOR, VECTOR)) is None
    assert (
        checked(
            handled(lambda rows: noisy(torch.tensor(np.array(rows)).half().float()), VECTOR, VECTOR)
        )
        is None
    )
    with pytest.raises(BatchUnsafe, match=r"rounding explains .* \(0\.01 of"):
        checked(of(lambda x: x.bfloat16().float().softmax(0), VECTOR, VECTOR))


def test_few_forwards_are_made_and_none_is_larger_than_the_policy_allows() -> None:
    sizes: list[int] = []

    def run(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return x

    assert batch_variance(of(run, VECTOR, VECTOR)) is None
    assert sizes == [1, 1, 1, 1, 4, 4, 4, 8]
    sizes.clear()
    assert batch_variance(of(run, VECTOR, VECTOR, batching={"max_batch_size": 4})) is None
    assert sizes == [1, 1, 2, 2, 2, 4]


def test_a_buffer_that_is_used_again_hides_nothing() -> None:
    buffer = torch.zeros(8, 4)

    def run(x: torch.Tensor) -> torch.Tensor:
        buffer[: len(x)] = x.softmax(0)
        return buffer[: len(x)]

    with pytest.raises(BatchUnsafe):
        checked(of(run, VECTOR, VECTOR))


def test_tf32_is_as_it_was_afterwards() -> None:
    seen: list[bool] = []
    before = torch.backends.cudnn.allow_tf32

    def run(x: torch.Tensor) -> torch.Tensor:
        seen.append(torch.backends.cudnn.allow_tf32)
        return x

    batch_variance(of(run, VECTOR, VECTOR))
    assert set(seen) == {False}
    assert torch.backends.cudnn.allow_tf32 is before
