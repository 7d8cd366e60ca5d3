"""Two decoders whose graphs are traced once, how they are played, and transformers' own models with their weights."""

import copy
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
import transformers
from numpy.typing import NDArray
from transformers import BertConfig

from rpln_runtime.tasks import TASKS
from tests.graphs.networks import PAD, Network, tiny_model, trace_variant
from tests.graphs.text_graphs import Arrays, runner

Ids = NDArray[np.int64]

TEXT, TEXT2TEXT = TASKS["text-generation"], TASKS["text2text-generation"]
PRUNED = {0: {1}, 1: {0, 3}}
"""Layer -> the heads that are gone."""


# -- the networks ----------------------------------------------------------------------------------------------------


@cache
def generator() -> Any:
    """A decoder that goes on with a text."""
    return tiny_model(TEXT, type_vocab_size=1)


@cache
def translator() -> Any:
    """An encoder-decoder; its encoder is narrower and shallower, so that a projection stands between them."""
    return tiny_model(TEXT2TEXT, type_vocab_size=1)


@cache
def foreign_translator() -> Any:
    """The decoder of `translator` behind an encoder of another architecture, which is as wide as that one's."""
    model = tiny_model(TEXT2TEXT, type_vocab_size=1, encoder=bert_config(24))
    states = {name: tensor for name, tensor in translator().state_dict().items() if not name.startswith("encoder.")}
    model.load_state_dict(states, strict=True)
    return model


def bert_config(width: int) -> BertConfig:
    return BertConfig(
        vocab_size=47,
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=20,
        pad_token_id=0,
    )


@cache
def generating(variant: str) -> Network:
    return trace_variant(generator(), TEXT, variant)


@cache
def translating(variant: str) -> Network:
    return trace_variant(translator(), TEXT2TEXT, variant)


def theirs(model: Any) -> Any:
    """transformers' own model with the weights of ours."""
    config = copy.deepcopy(model.config)
    for part in (config, getattr(config, "encoder", config), getattr(config, "decoder", config)):
        part._attn_implementation = "eager"
    reference = getattr(transformers, type(model).__name__)(config).eval()
    reference.load_state_dict(model.state_dict(), strict=True)
    return reference


# -- what they are fed -----------------------------------------------------------------------------------------------


def random_ids(rows: int, tokens: int, *, high: int = 61, seed: int = 0) -> Ids:
    return np.random.default_rng(seed).integers(PAD + 1, high, (rows, tokens))


def padded(ids: Ids, keep: Ids) -> Ids:
    return np.where(keep == 1, ids, PAD)


def positions_of(keep: Ids) -> Ids:
    """RoBERTa's: real tokens count from behind the row of padding."""
    return np.asarray(PAD + np.cumsum(keep, axis=1) * keep)


def forward(model: Any, **arrays: Any) -> Any:
    """A plain call of a torch model."""
    tensors = {
        name: torch.from_numpy(array) if isinstance(array, np.ndarray) else array for name, array in arrays.items()
    }
    with torch.inference_mode():
        return model(**tensors)


# -- playing their graphs --------------------------------------------------------------------------------------------


compute = cache(runner)
"""`runner` of a graph, which is loaded once."""


class Player:
    """Steps over a decoder's graphs: what one step gives is what the next one takes. `memory` is the encoder's."""

    def __init__(self, prompt: ir.Model, step: ir.Model | None = None, memory: Arrays | None = None) -> None:
        self.graph = prompt
        self.step = prompt if step is None else step
        self.past: Arrays = {}
        self.memory = {} if memory is None else memory

    def __call__(self, ids: Ids, keep: Ids, rows: Ids | None = None) -> Arrays:
        """All outputs for the new tokens `ids`; `keep` is the mask of all so far, `rows` what goes on of the cache."""
        if rows is not None:
            self.past = {name: array[rows] for name, array in self.past.items()}
            self.memory = {name: array[rows] for name, array in self.memory.items()}
        found = compute(self.graph)(self.feeds(ids, keep))
        self.past = {
            name.replace("present", "past_key_values"): array
            for name, array in found.items()
            if name.startswith("present.")
        }
        self.graph = self.step
        return found

    def feeds(self, ids: Ids, keep: Ids) -> Arrays:
        """What the next graph is fed for these tokens."""
        offered = {
            "input_ids": ids,
            "attention_mask": keep,
            "position_ids": positions_of(keep)[:, -ids.shape[1] :],
            "token_type_ids": np.zeros_like(ids),
            **self.past,
            **self.memory,
        }
        if not self.past:
            offered |= _empty_past(self.graph, len(ids))
        return {str(value.name): offered[str(value.name)] for value in self.graph.graph.inputs}

    def play(self, ids: Ids, keep: Ids, cuts: tuple[int, ...]) -> list[Arrays]:
        """The outputs of each step over a history: so many tokens at first, so many in the next step, and so on."""
        ends = np.cumsum(cuts)
        assert ends[-1] == ids.shape[1]
        return [self(ids[:, end - new : end], keep[:, :end]) for new, end in zip(cuts, ends.tolist(), strict=True)]


def _empty_past(model: ir.Model, rows: int) -> Arrays:
    """Keys and values of no token, in the types that the graph takes."""
    empty: Arrays = {}
    for value in model.graph.inputs:
        if str(value.name).startswith("past_key_values."):
            assert value.shape is not None
            assert value.dtype is not None
            _, heads, _, size = (size if isinstance(size, int) else 0 for size in value.shape)
            empty[str(value.name)] = np.zeros((rows, heads, 0, size), dtype=value.dtype.numpy())
    return empty


def encode(encoder: ir.Model, feeds: Arrays) -> tuple[Arrays, Arrays]:
    """What the encoder's graph gives, and what of that the decoder's graphs are fed."""
    found = compute(encoder)(feeds)
    memory = {name: array for name, array in found.items() if name.startswith("cross_key_values.")}
    return found, memory
