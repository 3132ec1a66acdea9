"""A BERT encoder in plain torch: token numbers in, one vector per token out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: Our names for the parts of one layer, and those in files of BERT weights.
_IN_FILES = {
    "projected": "attention.output.dense",
    "attended": "attention.output.LayerNorm",
    "widened": "intermediate.dense",
    "narrowed": "output.dense",
    "fed": "output.LayerNorm",
}


class Layer(nn.Module):
    """Self-attention and a small network for each token, each added to what it was given.

    Args:
        config: ``config.json`` of a BERT model.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.heads = config["num_attention_heads"]
        # Queries, keys and values in one product: the file has three, which are stacked.
        self.asked = nn.Linear(width, 3 * width)
        self.projected = nn.Linear(width, width)
        self.attended = nn.LayerNorm(width, eps=eps)
        self.widened = nn.Linear(width, config["intermediate_size"])
        self.narrowed = nn.Linear(config["intermediate_size"], width)
        self.fed = nn.LayerNorm(width, eps=eps)

    def forward(self, states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """One layer's step.

        Args:
            states: ``[n, length, width]``.
            mask: ``[n, 1, 1, length]``, true for real tokens; ``None`` where all are real.
        """
        parts = self.asked(states).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        heard = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        states = self.attended(states + self.projected(heard.transpose(1, 2).flatten(2)))
        widened = nn.functional.gelu(self.widened(states))
        result: torch.Tensor = self.fed(states + self.narrowed(widened))
        return result


class Bert(nn.Module):
    """The embeddings and all layers.

    Args:
        config: ``config.json`` of a BERT model.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.words = nn.Embedding(config["vocab_size"], width)
        self.places = nn.Embedding(config["max_position_embeddings"], width)
        self.norm = nn.LayerNorm(width, eps=config["layer_norm_eps"])
        self.layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The last layer's state of every token.

        Args:
            tokens: numbers of the vocabulary, ``[n, length]``.
            mask: ``[n, length]``, true for real tokens, false for padding.

        Returns:
            ``[n, length, width]``; what stands at padding means nothing.
        """
        states = self.norm(self.words(tokens) + self.places.weight[: tokens.shape[1]])
        # Without a mask, torch has the faster kernels.
        seen = None if bool(mask.all()) else mask[:, None, None, :]
        for layer in self.layers:
            states = layer(states, seen)
        final: torch.Tensor = states
        return final


def load_bert(config: Mapping[str, Any], weights: Path, device: str) -> Bert:
    """A BERT encoder with the weights of a file, in evaluation mode.

    Args:
        config: ``config.json`` of the model.
        weights: its ``model.safetensors``, with the names that BERT models are published with.
        device: ``cpu``, ``cuda`` or ``cuda:0``.

    Raises:
        ValueError: the model is of another kind than this encoder.
        KeyError: the file lacks a weight.
        RuntimeError: a weight has another shape than the configuration says.
    """
    kind = (config["model_type"], config["hidden_act"], config["position_embedding_type"])
    if kind != ("bert", "gelu", "absolute"):
        raise ValueError(f"config.json is of {kind}; expected bert, gelu, absolute.")
    with torch.device("meta"):
        bert = Bert(config)
    found = load_file(weights, device=device)
    bert.load_state_dict(_renamed(found, len(bert.layers)), assign=True)
    return bert.requires_grad_(requires_grad=False).eval()


def _renamed(found: Mapping[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    words, kinds = (
        found[f"embeddings.{part}_embeddings.weight"] for part in ("word", "token_type")
    )
    ours = {
        # All our tokens are of kind 0: its vector is added to every word's once, here.
        "words.weight": words + kinds[0],
        "places.weight": found["embeddings.position_embeddings.weight"],
    }
    for end in ("weight", "bias"):
        ours[f"norm.{end}"] = found[f"embeddings.LayerNorm.{end}"]
        for number in range(layers):
            theirs = f"encoder.layer.{number}"
            asked = [found[f"{theirs}.attention.self.{p}.{end}"] for p in ("query", "key", "value")]
            ours[f"layers.{number}.asked.{end}"] = torch.cat(asked)
            for part, name in _IN_FILES.items():
                ours[f"layers.{number}.{part}.{end}"] = found[f"{theirs}.{name}.{end}"]
    return ours
