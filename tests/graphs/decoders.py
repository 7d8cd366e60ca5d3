"""Two decoders whose graphs are traced once, a player that runs them in steps, and transformers' models to compare."""

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
"""The heads that are pruned from each layer."""


# -- the networks ----------------------------------------------------------------------------------------------------


@cache
def generator() -> Any:
    """Return a decoder that continues a text."""
    return tiny_model(TEXT, type_vocab_size=1)


@cache
def translator() -> Any:
    """Return an encoder-decoder. Its encoder is narrower and has fewer layers, so that its output is projected."""
    return tiny_model(TEXT2TEXT, type_vocab_size=1)


@cache
def foreign_translator() -> Any:
    """Return the decoder of `translator` for an encoder of another architecture and the same width."""
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
    """Return transformers' own model with the weights of ours."""
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
    """Return RoBERTa's positions: real tokens are counted from the row after that of padding."""
    return np.asarray(PAD + np.cumsum(keep, axis=1) * keep)


def forward(model: Any, **arrays: Any) -> Any:
    """Call a torch model without gradients."""
    tensors = {
        name: torch.from_numpy(array) if isinstance(array, np.ndarray) else array for name, array in arrays.items()
    }
    with torch.inference_mode():
        return model(**tensors)


# -- playing their graphs --------------------------------------------------------------------------------------------


compute = cache(runner)
"""Returns the `runner` of a graph, which is loaded once."""


class Player:
    """Runs a decoder's graphs in steps: outputs of one step are inputs of the next. `memory` is an encoder's output."""

    def __init__(self, prompt: ir.Model, step: ir.Model | None = None, memory: Arrays | None = None) -> None:
        self.graph = prompt
        self.step = prompt if step is None else step
        self.past: Arrays = {}
        self.memory = {} if memory is None else memory

    def __call__(self, ids: Ids, keep: Ids, rows: Ids | None = None) -> Arrays:
        """Return all outputs for the new tokens `ids`.

        `keep` is the mask of all tokens so far, and `rows` are the rows of the cache that go on.
        """
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
        """Return the inputs of the next graph for these tokens."""
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
        """Return the outputs of each step over a history. `cuts` says how many tokens each step takes."""
        ends = np.cumsum(cuts)
        assert ends[-1] == ids.shape[1]
        return [self(ids[:, end - new : end], keep[:, :end]) for new, end in zip(cuts, ends.tolist(), strict=True)]


def _empty_past(model: ir.Model, rows: int) -> Arrays:
    """Return keys and values of no tokens, in the types that the graph takes."""
    empty: Arrays = {}
    for value in model.graph.inputs:
        if str(value.name).startswith("past_key_values."):
            assert value.shape is not None
            assert value.dtype is not None
            _, heads, _, size = (size if isinstance(size, int) else 0 for size in value.shape)
            empty[str(value.name)] = np.zeros((rows, heads, 0, size), dtype=value.dtype.numpy())
    return empty


def encode(encoder: ir.Model, feeds: Arrays) -> tuple[Arrays, Arrays]:
    """Return the outputs of the encoder's graph, and those of them that the decoder's graphs read."""
    found = compute(encoder)(feeds)
    memory = {name: array for name, array in found.items() if name.startswith("cross_key_values.")}
    return found, memory
