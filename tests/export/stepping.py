"""Runs decoders' bundles step by step, and transformers' model on the whole text to compare with.

Nothing here comes from the exporter: the cache is passed from one run of a graph to the next as arrays.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rpln_runtime import load
from rpln_runtime.manifest import Graph, read_manifest
from tests.export.references import PAD

Feeds = dict[str, np.ndarray]
Run = Callable[[Feeds], Mapping[str, np.ndarray]]

ROUTES = {"with-past": ("with-past", "with-past"), "full": ("full", "full"), "prefill, decode": ("prefill", "decode")}
"""The variants that run the prompt and the steps."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """A batch of texts [rows, tokens], a mask of their real tokens, and what an encoder reads, if there is one."""

    ids: np.ndarray
    mask: np.ndarray
    types: np.ndarray
    memory: Feeds | None = None

    @property
    def positions(self) -> np.ndarray:
        """RoBERTa's positions: real tokens are counted from the row after that of padding."""
        counted: np.ndarray = PAD + np.cumsum(self.mask, axis=1) * self.mask
        return counted


def make_texts(config: Any, *, encoder: Any = None, types: int = 1) -> list[Text]:
    """Return texts without padding, and texts with padding on the left and in the middle."""
    rng = np.random.default_rng(7)
    masks = [
        np.ones((2, 12)),
        np.array([[1] * 12, [0] * 2 + [1] * 10, [0] * 4 + [1] * 8]),
        np.array([[1, 0, 1, 1] + [1] * 8, [0, 1, 0, 1] + [1] * 8]),
    ]
    texts = []
    for mask in masks:
        keep = mask.astype(np.int64)
        memory = None
        if encoder is not None:
            read = np.array([[1] * 6, [1] * 4 + [0] * 2, [1] * 5 + [0]], dtype=np.int64)[: len(keep)]
            memory = {"input_ids": random_ids(rng, read, encoder.vocab_size), "attention_mask": read}
        ids = random_ids(rng, keep, config.vocab_size)
        texts.append(Text(ids=ids, mask=keep, types=rng.integers(0, types, keep.shape), memory=memory))
    return texts


def random_ids(rng: np.random.Generator, mask: np.ndarray, vocab_size: int) -> np.ndarray:
    return np.where(mask == 1, rng.integers(2, vocab_size, mask.shape), PAD)


def logits_of_steps(
    folder: Path, route: str, text: Text, chunks: Sequence[int], *, opened: Callable[[Path, Graph], Run] | None = None
) -> np.ndarray:
    """Return the last logits of each chunk of tokens, [chunks, rows, vocabulary]. The first chunk is the prompt."""
    graphs = {graph.variant: graph for graph in read_manifest(folder).graphs}
    runs = {variant: (opened or open_session)(folder, graph) for variant, graph in graphs.items()}
    memory = {} if text.memory is None else encode(graphs, runs, text.memory)
    prompt, step = ROUTES[route]
    past = {
        spec.name: np.zeros(
            [len(text.ids) if axis == "batch" else axis if isinstance(axis, int) else 0 for axis in spec.shape],
            dtype=spec.dtype,
        )
        for spec in graphs[prompt].inputs
        if spec.name.startswith("past_key_values.")
    }
    found, start = [], 0
    for end in np.cumsum(chunks):
        variant = step if start else prompt
        first = 0 if variant == "full" else start
        feeds = {
            "input_ids": text.ids[:, first:end],
            "attention_mask": text.mask[:, :end],
            "position_ids": text.positions[:, first:end],
            "token_type_ids": text.types[:, first:end],
            **past,
            **memory,
        }
        outputs = runs[variant]({spec.name: feeds[spec.name] for spec in graphs[variant].inputs})
        past = {
            f"past_key_values{name.removeprefix('present')}": array
            for name, array in outputs.items()
            if name.startswith("present.")
        }
        found.append(outputs["logits"][:, -1].astype(np.float32))
        start = end
    return np.stack(found)


def encode(graphs: Mapping[str, Graph], runs: Mapping[str, Run], memory: Feeds) -> Feeds:
    """Return what the decoder's graphs read of the encoder, from its tokens or from given hidden states."""
    variant = "encoder" if "encoder" in graphs else "cross"
    outputs = runs[variant]({spec.name: memory[spec.name] for spec in graphs[variant].inputs})
    made = {name: array for name, array in outputs.items() if name.startswith("cross_key_values.")}
    return {"encoder_attention_mask": memory["attention_mask"], **made}


def open_session(folder: Path, graph: Graph) -> Run:
    return load(folder, variant=graph.variant).run


def whole_logits(model: Any, text: Text, chunks: Sequence[int]) -> np.ndarray:
    """Return the logits of transformers' `model` for the whole text without a cache, at the end of each chunk."""
    logits = whole_outputs(model, text).logits
    return np.stack([logits[:, end - 1].numpy() for end in np.cumsum(chunks)])


def whole_outputs(model: Any, text: Text, **options: bool) -> Any:
    """Return all outputs of transformers' `model` for the whole text."""
    own = {"input_ids": text.ids, "attention_mask": text.mask, "position_ids": text.positions}
    if text.types.any():
        own["token_type_ids"] = text.types
    given = own if text.memory is None else {f"decoder_{name}": array for name, array in own.items()} | text.memory
    with torch.inference_mode():
        return model(**{name: torch.from_numpy(array) for name, array in given.items()}, use_cache=False, **options)
