"""The inputs of a graph for one text, a row without padding, and for one question, with a row for each choice."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from rpln_graphs.calls import GraphCall
from rpln_graphs.feeds import Feeds, build_feeds
from rpln_graphs.stress import arrays_from_mask
from rpln_model.config import padding_row
from rpln_runtime.tasks import (
    BATCH,
    CHOICES,
    ENCODER_SEQUENCE,
    MASK_AXIS,
    MASKED_LOGITS,
    SEQUENCE,
    TOTAL,
    Tensor,
)

_AS_LONG_AS_THE_TEXT: Final = (SEQUENCE, TOTAL, ENCODER_SEQUENCE, MASK_AXIS)
"""The axes that have a place for each token of the text."""
MASK_EVERY: Final = 7
"""One of this many tokens is a mask token in graphs that look for these: about 15%, as in RoBERTa's training."""


def feeds_from_ids(ids: NDArray[np.int64], inputs: Sequence[Tensor], call: GraphCall) -> Feeds:
    """Return `inputs` of the network in `call` for a text of these ids.

    Hidden states of an encoder of another architecture are random. A graph that gives the logits of some tokens only is
    asked for all tokens, or for mask tokens that are put into the text.
    """
    config = call.model.config
    sizes = {BATCH: 1, CHOICES: 1} | dict.fromkeys(_AS_LONG_AS_THE_TEXT, ids.size)
    made: dict[str, Callable[[tuple[int, ...]], NDArray[Any]]] = {
        "input_ids": lambda _: _with_masks(call, ids),
        "masked_positions": lambda _: np.arange(ids.size),
        "attention_mask": np.ones,
        "token_type_ids": np.zeros,
        "position_ids": lambda _: padding_row(config) + 1 + np.arange(ids.size),
        "inputs_embeds": lambda _: _embedded(call, ids),
        "head_mask": np.ones,
        "encoder_hidden_states": np.random.default_rng(0).standard_normal,
    }
    return build_feeds(call.wanted_inputs(inputs, sizes), lambda name, shape: made[name](shape))


def feeds_from_choices(
    ids: NDArray[np.int64], mask: NDArray[np.int64], inputs: Sequence[Tensor], call: GraphCall
) -> Feeds:
    """Return `inputs` of the network in `call` for one question; `ids` and `mask` are (choices, tokens)."""
    choices, tokens = ids.shape
    made: dict[str, Callable[[tuple[int, ...]], NDArray[Any]]] = {
        "input_ids": lambda _: ids,
        "inputs_embeds": lambda _: _embedded(call, ids),
        "head_mask": np.ones,
    }
    given = arrays_from_mask(mask, pad=padding_row(call.model.config))
    wanted = call.wanted_inputs(inputs, {BATCH: 1, CHOICES: choices, SEQUENCE: tokens})
    return build_feeds(wanted, lambda name, shape: given[name] if name in given else made[name](shape))


def _with_masks(call: GraphCall, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the ids, with mask tokens among them if the graph looks for these."""
    if MASKED_LOGITS not in call.outputs:
        return ids
    return np.where(np.arange(ids.size) % MASK_EVERY == 0, call.model.config.mask_token_id, ids)


def _embedded(call: GraphCall, ids: NDArray[np.int64]) -> NDArray[Any]:
    """Return the word embeddings of the ids, (tokens, hidden size)."""
    with torch.inference_mode():
        embedded: NDArray[Any] = call.model.base_model.get_input_embeddings()(torch.from_numpy(ids)).numpy()
    return embedded
