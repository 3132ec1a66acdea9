"""Sentence embeddings as a handler: texts in, vectors of length 1 out."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch.nn import functional

from umbel_examples.bert import load_bert
from umbel_examples.parts import by_length

#: Files of the model folder: as sentence-transformers publishes such models.
WEIGHTS = "model.safetensors"
CONFIG, TOKENIZER = "config.json", "tokenizer.json"
LIMITS, POOLING = "sentence_bert_config.json", "1_Pooling/config.json"


@dataclass(frozen=True, slots=True)
class Part:
    """Rows that one forward runs together.

    Attributes:
        places: where in the batch each row stands.
        tokens: numbers of the vocabulary, int64 ``[n, length]``.
        mask: bool ``[n, length]``, true for real tokens, false for padding.
    """

    places: list[int]
    tokens: torch.Tensor
    mask: torch.Tensor


class MiniLM:
    """The handler: tokenises, runs rows of similar length together, averages over tokens.

    The product of two vectors is the cosine similarity of their texts. Several threads may use one
    handler at once.

    Args:
        folder: the model's files, see ``umbel_examples.minilm_folder``.
        device: ``cpu``, ``cuda`` or ``cuda:0``.
        plan: cuts a batch into parts, given how many tokens each row has.

    Attributes:
        real_tokens: computed so far, of texts.
        padded_tokens: computed so far in vain, to fill up shorter texts.
    """

    def __init__(
        self,
        folder: Path,
        device: str,
        *,
        plan: Callable[[Sequence[int]], list[list[int]]] = by_length,
    ) -> None:
        if not _read(folder / POOLING)["pooling_mode_mean_tokens"]:
            raise ValueError(f"{POOLING} asks for another pooling than the mean of all tokens.")
        self._bert = load_bert(_read(folder / CONFIG), folder / WEIGHTS, device)
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        # The file asks for 128 tokens, always; the model was trained on up to these.
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(_read(folder / LIMITS)["max_seq_length"])
        self._device, self._plan = device, plan
        self._counting = threading.Lock()
        self.real_tokens = self.padded_tokens = 0

    def preprocess(self, texts: Sequence[str]) -> list[Part]:
        """Tokens of all texts, cut into parts.

        Args:
            texts: of the whole batch; what is beyond 256 tokens of one is ignored.
        """
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]
        return [_part(rows, places) for places in self._plan([len(row) for row in rows])]

    @torch.inference_mode()
    def forward(self, batch: list[Part]) -> list[tuple[list[int], torch.Tensor]]:
        """Places and vectors ``[n, 384]`` of each part.

        Args:
            batch: what ``preprocess`` returned.
        """
        for part in batch:
            self._count(part)
        return [(part.places, self._embed(part)) for part in batch]

    def postprocess(self, outputs: list[tuple[list[int], torch.Tensor]]) -> NDArray[np.float32]:
        """The vectors in the order of the texts, float32 ``[n, 384]``, each of length 1.

        Args:
            outputs: what ``forward`` returned.
        """
        vectors = torch.cat([part for _, part in outputs]).cpu().numpy()
        ordered = np.empty_like(vectors)
        ordered[[place for places, _ in outputs for place in places]] = vectors
        return ordered

    def _embed(self, part: Part) -> torch.Tensor:
        tokens, mask = part.tokens.to(self._device), part.mask.to(self._device)
        states = self._bert(tokens, mask)
        weights = mask.unsqueeze(-1).to(states.dtype)
        return functional.normalize((states * weights).sum(1) / weights.sum(1), dim=1)

    def _count(self, part: Part) -> None:
        real = int(part.mask.sum())
        with self._counting:
            self.real_tokens += real
            self.padded_tokens += part.mask.numel() - real


def _part(rows: Sequence[list[int]], places: list[int]) -> Part:
    lengths = torch.tensor([len(rows[place]) for place in places])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    tokens = torch.zeros(mask.shape, dtype=torch.int64)
    tokens[mask] = torch.tensor([token for place in places for token in rows[place]])
    return Part(places, tokens, mask)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
