"""Sentence embeddings on real English: one by one, in batches, sorted by length, through umbel.

Usage: python benchmarks/minilm.py [--texts 2048] [--rounds 4] [--some 128]

The texts are sentences from the documentation of installed packages. Each round embeds its share of
them in every way, so that ratios mean something on a busy machine; the two slow ways get only the
first `--some` of the share. Speeds are per token, and told as sentences of the mean length. Each
embedding is compared with that of its sentence alone, or with another way's where none was made
alone; the exit status is 1 where one differs by more than 1e-4.

A handler that runs a batch whole shows what umbel does about padding: it looks ahead in the line,
or takes jobs as they come (`look_ahead: 1`). A loop over sorted sentences is the best there is.
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
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from suite.processes import running

from umbel import Client, Job
from umbel_config.connect import connect
from umbel_config.embedded import EmbeddedRedis
from umbel_config.settings import load_settings
from umbel_examples import minilm_folder
from umbel_examples.folders import write_model_file
from umbel_examples.minilm import MiniLM
from umbel_examples.parts import as_they_come, by_length
from umbel_registry import ArtifactStore, Catalog, push
from umbel_worker.runtime import threads_per_batch

BATCH, SEED = 64, 0
FEWEST_WORDS, MOST_WORDS = 3, 200
ALLOWED = 1e-4
#: Models that run a batch whole, and how far they look ahead in their line.
AHEAD = {"as-they-come": 1, "by-length": 8}
ALLOWED_MODULES = ("umbel_examples", "minilm_whole")
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
        batches: tells which texts of the last call shared a batch that was run whole, by their
            places in it; ``None`` where they are not known.
        real, padded: tokens of texts, and those that filled them up; 0 where they are not known.
        vectors: what it returned, by place of the text.
        speeds: real tokens per second, by round.
    """

    name: str
    embed: Embed
    slow: bool = False
    handler: MiniLM | None = None
    batches: Callable[[], Sequence[Sequence[int]]] | None = None
    real: int = 0
    padded: int = 0
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
        for batch in self.batches() if self.batches else ():
            its = [lengths[places[place]] for place in batch]
            self.real += sum(its)
            self.padded += len(its) * max(its) - sum(its)
        if self.handler:
            self.real, self.padded = self.handler.real_tokens, self.handler.padded_tokens


def in_batches(handler: MiniLM, size: int) -> Embed:
    """The handler in this process, without umbel."""

    def embed(texts: Sequence[str]) -> Vectors:
        batches = (texts[at : at + size] for at in range(0, len(texts), size))
        return np.concatenate(
            [handler.postprocess(handler.forward(handler.preprocess(part))) for part in batches]
        )

    return embed


def in_order_of_length(embed: Embed) -> Embed:
    """The same, with texts sorted by their bytes first, and put back."""

    def sorted_first(texts: Sequence[str]) -> Vectors:
        order = sorted(range(len(texts)), key=lambda place: len(texts[place].encode()))
        vectors = embed([texts[place] for place in order])
        restored = np.empty_like(vectors)
        restored[order] = vectors
        return restored

    return sorted_first


class ThroughUmbel:
    """Single jobs, their results in this process's hands.

    Args:
        client: of the running workers.
        model: name of the model.
    """

    def __init__(self, client: Client, model: str) -> None:
        self._client, self._model = client, model
        self._jobs: list[Job] = []

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """The vectors of some texts."""
        self._jobs = self._client.submit_many(self._model, texts)
        return np.stack([job.result() for job in self._jobs])

    def batches(self) -> list[list[int]]:
        """Which texts of the last call shared a batch."""
        shared: defaultdict[str | None, list[int]] = defaultdict(list)
        for place, job in enumerate(self._jobs):
            shared[job.info().batch_id].append(place)
        return list(shared.values())


def push_models(state: Path, catalog: Catalog, store: ArtifactStore) -> Path:
    """Registers the model as it is, and whole in two versions of batching; returns its folder."""
    folder = minilm_folder.write(state / "minilm")
    known = yaml.safe_load((folder / "model.yaml").read_text("utf-8"))
    names = {"minilm": {}, **{name: {"look_ahead": ahead} for name, ahead in AHEAD.items()}}
    for name, batching in names.items():
        handler = known["handler"] if name == "minilm" else "minilm_whole:Whole"
        whole = {"name": name, "handler": handler, "batching": known["batching"] | batching}
        write_model_file(folder, known | whole)
        push(folder, catalog=catalog, store=store, allowed_modules=ALLOWED_MODULES)
    return folder


@contextmanager
def ways(state: Path) -> Iterator[list[Way]]:
    """All ways, loaded and warm, while the block runs; the first is one by one."""
    with ExitStack() as stack:
        url = stack.enter_context(EmbeddedRedis.start(state)).url
        env = {"UMBEL_REDIS_URL": url, "UMBEL_STATE_DIR": str(state)}
        env |= {"UMBEL_ALLOWED_MODULES": ",".join(ALLOWED_MODULES), "UMBEL_LOG_LEVEL": "warning"}
        paths = (str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))
        env["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        os.environ.update(env)
        settings = load_settings()
        torch.set_num_threads(threads_per_batch(settings))  # as many as the worker takes
        catalog = Catalog(connect(settings), settings.namespace)
        folder = push_models(state, catalog, ArtifactStore(settings.artifacts))
        stack.enter_context(running([sys.executable, "-m", "umbel_cli", "worker"], env))
        client = stack.enter_context(Client(url))
        alone, plain, tidy = (MiniLM(folder, "cpu", plan=as_they_come) for _ in range(3))
        by = MiniLM(folder, "cpu", plan=by_length)
        whole = {name: ThroughUmbel(client, name) for name in AHEAD}
        yield [
            Way("one by one", in_batches(alone, 1), slow=True, handler=alone),
            Way("as they come", in_batches(plain, BATCH), slow=True, handler=plain),
            Way("sorted", in_order_of_length(in_batches(tidy, BATCH)), handler=tidy),
            Way("in parts", in_batches(by, BATCH), handler=by),
            *(Way(f"umbel {name}", each, batches=each.batches) for name, each in whole.items()),
            Way("umbel in parts", ThroughUmbel(client, "minilm")),
        ]


def token_counts(handler: MiniLM, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, as the model sees it."""
    return [int(handler.preprocess([text])[0].mask.sum()) for text in texts]


# -- what came of it --------------------------------------------------------------------------


def report(everybody: Sequence[Way], mean: float) -> None:
    """Prints padding, speeds and ratios."""
    columns = ("way", "texts", "padding", "sentences/s", "range", "x one by one")
    print("\n{:16}{:>7}{:>9}{:>13}{:>16}{:>14}".format(*columns))
    for way in everybody:
        speeds = [speed / mean for speed in way.speeds]
        pairs = zip(way.speeds, everybody[0].speeds, strict=True)
        ratio = statistics.median(speed / single for speed, single in pairs)
        spread = f"{min(speeds):,.0f} to {max(speeds):,.0f}"
        print(
            f"{way.name:16}{len(way.vectors):7,}{_padding(way):>9}"
            f"{statistics.median(speeds):13,.0f}{spread:>16}{ratio:14.2f}"
        )


def _padding(way: Way) -> str:
    return f"{way.padded / way.real:.0%}" if way.real else "-"


def largest_difference(everybody: Sequence[Way]) -> float:
    """Prints how far the ways are from each other, and returns the largest difference."""
    worst, places = 0.0, range(1, len(everybody))
    for left, right in (*((0, place) for place in places), *((2, place) for place in places[2:])):
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
    parser.add_argument("--texts", type=int, default=2048, help="sentences, over all rounds")
    parser.add_argument("--rounds", type=int, default=4, help="rounds, interleaved")
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
            for _ in range(2):
                way.embed(texts[-BATCH:])
            if way.handler:
                way.handler.real_tokens = way.handler.padded_tokens = 0
        for turn in range(args.rounds):
            for way in all_:
                count = min(args.some, share) if way.slow else share
                way.measure(texts, range(turn * share, turn * share + count), lengths)
                speed = way.speeds[-1] / statistics.fmean(lengths)
                print(f"round {turn + 1}: {way.name:16}{speed:7,.0f}/s", flush=True)
        report(all_, statistics.fmean(lengths))
        worst = largest_difference(all_)
    return 0 if worst <= ALLOWED else 1


if __name__ == "__main__":
    sys.exit(main())
