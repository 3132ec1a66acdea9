"""Sentence embeddings on real English: one by one, in batches, sorted by length, through umbel.

Usage: python benchmarks/minilm.py [--texts 5000] [--rounds 10] [--some 128]

The texts are sentences from the documentation of installed packages. Each round embeds its share of
them in every way, so that ratios mean something on a busy machine; the two slow ways get only the
first `--some` of the share. Speeds are per token, and told as sentences of the mean length. Each
embedding is compared with that of its sentence alone, or with another way's where none was made
alone; the exit status is 1 where one differs by more than 1e-4.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import re
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from suite.processes import running

from umbel import Client
from umbel_config.connect import connect
from umbel_config.embedded import EmbeddedRedis
from umbel_config.settings import load_settings
from umbel_examples import minilm_folder
from umbel_examples.minilm import MiniLM
from umbel_examples.parts import as_they_come, by_length
from umbel_registry import ArtifactStore, Catalog, push
from umbel_worker.runtime import threads_per_batch

BATCH, SEED = 64, 0
FEWEST_WORDS, MOST_WORDS = 3, 200
ALLOWED = 1e-4
#: Folders of installed packages whose docstrings are mostly prose.
SOURCES = ("numpy", "sklearn", "torch.nn", "torch.optim")
Vectors = NDArray[np.float32]
Embed = Callable[[Sequence[str]], Vectors]


# -- sentences --------------------------------------------------------------------------------


def sentences() -> list[str]:
    """All sentences found, each once, sorted."""
    found = {sentence for text in _documentation() for sentence in _split(text)}
    return sorted(found)


def _documentation() -> Iterator[str]:
    for name in SOURCES:
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        yield from _docstrings(Path(spec.origin).parent.rglob("*.py"))
        for page in Path(spec.origin).parent.rglob("*.rst"):
            yield page.read_text(encoding="utf-8")
    yield from _docstrings(Path(sysconfig.get_path("stdlib")).glob("*.py"))


def _docstrings(paths: Iterator[Path]) -> Iterator[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path in paths:
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, documented):
                yield ast.get_docstring(node) or ""


def _split(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*[-*:] )|::", text):
        line = " ".join(paragraph.split())
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", line):
            if _is_prose(sentence):
                yield sentence


def _is_prose(sentence: str) -> bool:
    letters = sum(character.isalpha() or character == " " for character in sentence)
    return (
        FEWEST_WORDS <= len(sentence.split()) <= MOST_WORDS
        and re.match(r"[A-Z].*[.!?]$", sentence) is not None
        and re.search(r"---|>>>", sentence) is None
        and letters > 0.85 * len(sentence)
    )


def describe(name: str, lengths: Sequence[int]) -> None:
    """Prints how long the texts are.

    Args:
        name: what is counted.
        lengths: of each text.
    """
    steps = (0, 5, 25, 50, 75, 95, 99, 100)
    values = np.percentile(lengths, steps)
    print(
        f"{name:7}" + "".join(f"{f'p{s}':>6}{v:5.0f}" for s, v in zip(steps, values, strict=True))
    )


# -- the ways to embed them -------------------------------------------------------------------


@dataclass
class Way:
    """One way to embed texts, and what came of it.

    Attributes:
        name: of it.
        embed: vectors of texts.
        slow: whether it gets only some of each round's texts.
        handler: which counts tokens; ``None`` where another process computes.
        vectors: what it returned, by place of the text.
        speeds: real tokens per second, by round.
    """

    name: str
    embed: Embed
    slow: bool = False
    handler: MiniLM | None = None
    vectors: dict[int, Vectors] = field(default_factory=dict)
    speeds: list[float] = field(default_factory=list)

    def measure(self, texts: Sequence[str], places: range, lengths: Sequence[int]) -> None:
        """Embeds some texts and notes how fast.

        Args:
            texts: all of them.
            places: of those to embed.
            lengths: tokens of all texts.
        """
        started = time.perf_counter()
        vectors = self.embed([texts[place] for place in places])
        elapsed = time.perf_counter() - started
        self.speeds.append(sum(lengths[place] for place in places) / elapsed)
        self.vectors |= dict(zip(places, vectors, strict=True))


def in_batches(handler: MiniLM, size: int) -> Embed:
    """The handler in this process, without umbel."""

    def embed(texts: Sequence[str]) -> Vectors:
        batches = (texts[at : at + size] for at in range(0, len(texts), size))
        return np.concatenate(
            [handler.postprocess(handler.forward(handler.preprocess(part))) for part in batches]
        )

    return embed


def through_umbel(client: Client) -> Embed:
    """Single jobs, their results in this process's hands."""
    return lambda texts: np.stack(list(client.map("minilm", texts)))


@contextmanager
def ways(state: Path) -> Iterator[list[Way]]:
    """All ways, loaded and warm, while the block runs; the first is one by one."""
    with ExitStack() as stack:
        url = stack.enter_context(EmbeddedRedis.start(state)).url
        env = {"UMBEL_REDIS_URL": url, "UMBEL_STATE_DIR": str(state)}
        env |= {"UMBEL_ALLOWED_MODULES": "umbel_examples", "UMBEL_LOG_LEVEL": "warning"}
        os.environ.update(env)
        settings = load_settings()
        torch.set_num_threads(threads_per_batch(settings))  # as many as the worker takes
        folder = minilm_folder.write(state / "minilm")
        catalog = Catalog(connect(settings), settings.namespace)
        store, allowed = ArtifactStore(settings.artifacts), settings.allowed_modules
        push(folder, catalog=catalog, store=store, allowed_modules=allowed)
        stack.enter_context(running([sys.executable, "-m", "umbel_cli", "worker"], env))
        client = stack.enter_context(Client(url))
        alone, plain = (MiniLM(folder, "cpu", plan=as_they_come) for _ in range(2))
        by = MiniLM(folder, "cpu", plan=by_length)
        yield [
            Way("one by one", in_batches(alone, 1), slow=True, handler=alone),
            Way("as they come", in_batches(plain, BATCH), slow=True, handler=plain),
            Way("by length", in_batches(by, BATCH), handler=by),
            Way("umbel", through_umbel(client)),
        ]


def token_counts(handler: MiniLM, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, as the model sees it."""
    return [int(handler.preprocess([text])[0].mask.sum()) for text in texts]


# -- what came of it --------------------------------------------------------------------------


def report(everybody: Sequence[Way], mean: float) -> None:
    """Prints padding, speeds and ratios."""
    columns = ("way", "texts", "padding", "sentences/s", "range", "x one by one")
    print("\n{:13}{:>7}{:>9}{:>13}{:>16}{:>14}".format(*columns))
    for way in everybody:
        speeds = [speed / mean for speed in way.speeds]
        pairs = zip(way.speeds, everybody[0].speeds, strict=True)
        ratio = statistics.median(speed / single for speed, single in pairs)
        spread = f"{min(speeds):,.0f} to {max(speeds):,.0f}"
        print(
            f"{way.name:13}{len(way.vectors):7,}{_padding(way.handler):>9}"
            f"{statistics.median(speeds):13,.0f}{spread:>16}{ratio:14.2f}"
        )


def _padding(handler: MiniLM | None) -> str:
    return "-" if handler is None else f"{handler.padded_tokens / handler.real_tokens:.0%}"


def largest_difference(everybody: Sequence[Way]) -> float:
    """Prints how far the ways are from each other, and returns the largest difference."""
    worst = 0.0
    for left, right in ((0, 1), (0, 2), (0, 3), (2, 3)):
        one, other = everybody[left], everybody[right]
        shared = sorted(one.vectors.keys() & other.vectors.keys())
        pairs = [(one.vectors[place], other.vectors[place]) for place in shared]
        difference = max(float(np.abs(a - b).max()) for a, b in pairs)
        print(f"{one.name} and {other.name}: {difference:.1e} at most, {len(shared):,} texts")
        worst = max(worst, difference)
    return worst


def arguments() -> Any:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(description="Sentence embeddings on real English.")
    parser.add_argument("--texts", type=int, default=5000, help="sentences, over all rounds")
    parser.add_argument("--rounds", type=int, default=10, help="rounds, interleaved")
    parser.add_argument("--some", type=int, default=128, help="of a round, for the slow ways")
    return parser.parse_args()


def main() -> int:
    """Runs all ways in turn, prints the table and returns the exit status."""
    args = arguments()
    found = sentences()
    texts = random.Random(SEED).sample(found, args.texts)
    share = args.texts // args.rounds
    print(
        f"{len(texts):,} of {len(found):,} sentences from the documentation of installed packages"
    )
    print(f"slow ways: the first {min(args.some, share)} of {share:,} sentences of each round")
    describe("words", [len(text.split()) for text in texts])
    with tempfile.TemporaryDirectory(prefix="umbel-minilm-") as folder, ways(Path(folder)) as all_:
        lengths = token_counts(MiniLM(Path(folder) / "minilm", "cpu"), texts)
        describe("tokens", lengths)
        for way in all_:
            way.embed(texts[-BATCH:])
            if way.handler:
                way.handler.real_tokens = way.handler.padded_tokens = 0
        for turn in range(args.rounds):
            for way in all_:
                count = min(args.some, share) if way.slow else share
                way.measure(texts, range(turn * share, turn * share + count), lengths)
                speed = way.speeds[-1] / statistics.fmean(lengths)
                print(f"round {turn + 1}: {way.name:13}{speed:7,.0f}/s", flush=True)
        report(all_, statistics.fmean(lengths))
        worst = largest_difference(all_)
    return 0 if worst <= ALLOWED else 1


if __name__ == "__main__":
    sys.exit(main())
