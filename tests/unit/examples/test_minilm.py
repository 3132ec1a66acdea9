"""The embeddings are those of sentence-transformers, whatever shares their batch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from umbel_config.errors import ModelLoadFailed
from umbel_examples.bert import load_bert
from umbel_examples.minilm import POOLING, MiniLM
from umbel_registry import load_model, read_model_file
from umbel_registry.loading import HandlerModel

Embed = Callable[[MiniLM, Sequence[str]], NDArray[np.float32]]

CLOSE = 1e-4
LONG = "word " * 500
TEXTS = (
    "Refund",
    "The cat sits on the mat.",
    LONG,
    "A feline rests upon a rug.",
    "Stock markets fell sharply on Monday, and analysts expect them to fall further this week.",
    "",
    "naïve café 北京 🙂",
    "Where is my parcel?",
)
#: The first numbers of each text's embedding, and its largest, as sentence-transformers 6.2.0 (with
#: transformers 5.24.0 and torch 2.13.0) computes them on a CPU from the files of the same package.
REFERENCE = {
    "Where is my parcel?": (0.033947, -0.014033, 0.043742, -0.023949, 0.060312, 0.161560),
    "The cat sits on the mat.": (0.134177, -0.032900, -0.024804, 0.041439, -0.036348, 0.178670),
    "A feline rests upon a rug.": (0.075804, 0.024783, 0.036869, 0.115968, -0.047693, 0.151722),
    "": (-0.118838, 0.048299, -0.002548, -0.011011, 0.051951, 0.406218),
    LONG: (-0.008124, -0.095586, -0.038673, 0.049662, -0.043794, 0.159864),
}


def test_embeddings_are_those_of_sentence_transformers(handler: MiniLM, embed: Embed) -> None:
    for vector, numbers in zip(embed(handler, list(REFERENCE)), REFERENCE.values(), strict=True):
        np.testing.assert_allclose(vector[:5], numbers[:5], atol=2e-6)
        assert np.abs(vector).max() == pytest.approx(numbers[5], abs=2e-6)


def test_embeddings_are_float32_of_length_one(handler: MiniLM, embed: Embed) -> None:
    vectors = embed(handler, TEXTS)
    assert vectors.shape == (len(TEXTS), 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_paraphrase_is_closer_than_another_subject(handler: MiniLM, embed: Embed) -> None:
    cat, feline, markets = embed(handler, [TEXTS[1], TEXTS[3], TEXTS[4]])
    assert cat @ feline > 0.5
    assert cat @ markets < 0.1


def test_each_text_is_embedded_as_if_it_were_alone(
    handler: MiniLM, unsorted: MiniLM, embed: Embed
) -> None:
    alone = np.concatenate([embed(handler, [text]) for text in TEXTS])
    for together in (handler, unsorted):
        np.testing.assert_allclose(embed(together, TEXTS), alone, rtol=0, atol=CLOSE)


def test_embeddings_come_in_the_order_of_the_texts(handler: MiniLM, embed: Embed) -> None:
    forwards, backwards = embed(handler, TEXTS), embed(handler, TEXTS[::-1])
    np.testing.assert_allclose(backwards[::-1], forwards, rtol=0, atol=CLOSE)
    apart = np.abs(forwards[:, None] - forwards[None]).max(axis=2) + np.eye(len(TEXTS))
    assert apart.min() > 100 * CLOSE, "texts that are all alike would prove nothing"


def test_what_is_beyond_256_tokens_is_ignored(handler: MiniLM, embed: Embed) -> None:
    (part,) = handler.preprocess([LONG])
    assert part.tokens.shape == (1, 256)
    full, cut, shorter = embed(handler, [LONG, "word " * 254, "word " * 200])
    np.testing.assert_allclose(full, cut, rtol=0, atol=CLOSE)
    assert np.abs(full - shorter).max() > 10 * CLOSE


def test_tokens_are_counted_with_their_padding(
    handler: MiniLM, unsorted: MiniLM, embed: Embed
) -> None:
    # With the two marks around each text: 3, 3, 12 and 102 tokens.
    texts = ["word", "word", "word " * 10, "word " * 100]
    for each, padding in ((handler, 0), (unsorted, 4 * 102 - 120)):
        real, padded = each.real_tokens, each.padded_tokens
        embed(each, texts)
        assert each.real_tokens - real == 120
        assert each.padded_tokens - padded == padding


def test_only_what_was_computed_is_counted(handler: MiniLM) -> None:
    before = (handler.real_tokens, handler.padded_tokens)
    handler.preprocess(TEXTS)
    assert (handler.real_tokens, handler.padded_tokens) == before


def test_several_threads_share_a_handler(handler: MiniLM, embed: Embed) -> None:
    texts = TEXTS[3:]
    expected, real = embed(handler, texts), handler.real_tokens
    each = sum(int(part.mask.sum()) for part in handler.preprocess(texts))
    with ThreadPoolExecutor(4) as pool:
        for vectors in pool.map(lambda _: embed(handler, texts), range(8)):
            np.testing.assert_allclose(vectors, expected, rtol=0, atol=CLOSE)
    assert handler.real_tokens == real + 8 * each


def test_model_folder_runs_as_umbel_runs_it(folder: Path, handler: MiniLM, embed: Embed) -> None:
    described = read_model_file(folder)
    model = load_model(folder, described, "cpu", ("umbel_examples",))
    assert isinstance(model, HandlerModel)
    rows = [model.signature.validate_input(text) for text in described.examples]
    for result, expected in zip(model.run(rows), embed(handler, rows), strict=True):
        np.testing.assert_array_equal(model.signature.validate_output(result), expected)


def test_a_model_with_another_pooling_is_refused(folder: Path, tmp_path: Path) -> None:
    pooling = json.loads((folder / POOLING).read_text(encoding="utf-8"))
    (tmp_path / POOLING).parent.mkdir()
    (tmp_path / POOLING).write_text(json.dumps(pooling | {"pooling_mode_mean_tokens": False}))
    with pytest.raises(ModelLoadFailed, match="another pooling than the mean"):
        load_model(tmp_path, read_model_file(folder), "cpu", ("umbel_examples",))


def test_a_model_of_another_kind_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match="expected bert, gelu, absolute"):
        load_bert(config | {"hidden_act": "relu"}, folder / "model.safetensors", "cpu")
