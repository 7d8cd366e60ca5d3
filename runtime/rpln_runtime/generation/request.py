"""What a call asks for, whichever way it was put: what the decoder starts from, and what it reads of an encoder.

Shapes: P prompts, E tokens of the longest encoder sequence.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from rpln_runtime.errors import InputError, ManifestError
from rpln_runtime.generation.cross_attention import CrossAttention
from rpln_runtime.inputs import check_feeds
from rpln_runtime.manifest import Generation
from rpln_runtime.options import check_integer
from rpln_runtime.session import Session

Prompts: TypeAlias = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True, eq=False)
class EncoderStates:
    """The output of an encoder of the caller's, for a bundle with a `cross` graph.

    Attributes:
        hidden_states: (prompts, tokens, encoder's hidden size), in the dtype of the graph's input.
        attention_mask: (prompts, tokens), int64, 1 for real tokens. None: all are.
    """

    hidden_states: np.ndarray
    attention_mask: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """Prompts to go on from.

    Attributes:
        contexts: the tokens that the decoder starts with, one list a prompt.
        lengths: what prompts are sorted by into batches: the tokens that differ in number.
        encode: gives what the decoder reads of the encoder for some of the prompts, by their places.
    """

    contexts: Prompts
    lengths: Sequence[int]
    encode: Callable[[Sequence[int]], CrossAttention | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where a bundle's requests come from: prompts, texts for its `encoder`, or states for its `cross` graph."""

    generation: Generation
    encoder: Session | None
    cross: Session | None

    def request(self, inputs: Prompts | EncoderStates) -> Request:
        """Make a request of `inputs`. Raises InputError for what the bundle does not take."""
        if self.encoder is not None:
            if isinstance(inputs, EncoderStates):
                raise InputError("the bundle has its own encoder: expected texts, not EncoderStates.")
            return _request_from_texts(inputs, self.encoder, self._start_token)
        if self.cross is not None:
            if not isinstance(inputs, EncoderStates):
                raise InputError("the bundle has no encoder: expected EncoderStates with the output of yours.")
            return _request_from_states(inputs, self.cross, self._start_token)
        if isinstance(inputs, EncoderStates):
            raise InputError(
                "the decoder has no cross-attention, so it takes no EncoderStates: expected prompts. A decoder that "
                "reads an encoder is exported with --task text2text-generation."
            )
        return _request_from_prompts(inputs, self.generation.bos_token_id)

    @property
    def _start_token(self) -> int:
        if self.generation.start_token_id is None:
            raise ManifestError("the manifest names no start_token_id for the decoder. Export the checkpoint again.")
        return self.generation.start_token_id


def check_tokens(inputs: Prompts, vocab_size: int) -> Prompts:
    """Return `inputs` as lists of plain integers. Raises InputError for what is no token of the vocabulary."""
    rows = [np.asarray(row).tolist() for row in inputs]
    for row in rows:
        if not isinstance(row, list):
            raise InputError(f"a prompt is {row!r}, expected a list of token ids: prompts are a list of such lists.")
    for token in (token for row in rows for token in row):
        check_integer("a prompt's token", token, minimum=0, maximum=vocab_size - 1)
    return rows


def _request_from_prompts(prompts: Prompts, bos_token_id: int | None) -> Request:
    contexts = []
    for prompt in prompts:
        if prompt:
            contexts.append(prompt)
        elif bos_token_id is not None:
            contexts.append([bos_token_id])
        else:
            raise InputError("a prompt is empty, and the model has no token to begin with: give it a text.")
    return Request(contexts, [len(context) for context in contexts], lambda _: None)


def _request_from_texts(texts: Prompts, encoder: Session, start_token_id: int) -> Request:
    manifest = encoder.manifest
    for text in texts:
        if not 0 < len(text) <= manifest.usable_length:
            raise InputError(f"a text has {len(text)} tokens, the encoder takes 1 to {manifest.usable_length}.")

    def encode(places: Sequence[int]) -> CrossAttention:
        rows = [texts[place] for place in places]
        shape = len(rows), max(map(len, rows))
        ids_PE, mask_PE = np.full(shape, manifest.pad_token_id, np.int64), np.zeros(shape, np.int64)
        for place, row in enumerate(rows):
            ids_PE[place, : len(row)] = row
            mask_PE[place, : len(row)] = 1
        feeds = {"input_ids": ids_PE, "attention_mask": mask_PE, "token_type_ids": np.zeros_like(ids_PE)}
        taken = {spec.name: feeds[spec.name] for spec in encoder.graph.inputs if spec.name in feeds}
        check_feeds(taken, encoder.graph, manifest)
        return CrossAttention(encoder, taken, mask_PE)

    return Request([[start_token_id]] * len(texts), [len(text) for text in texts], encode)


def _request_from_states(inputs: EncoderStates, cross: Session, start_token_id: int) -> Request:
    states_PEH = inputs.hidden_states
    check_feeds({"encoder_hidden_states": states_PEH}, cross.graph, cross.manifest)
    if not np.isfinite(states_PEH).all():
        raise InputError("hidden_states holds NaN or infinite values: look for the reason in the encoder.")
    shape = states_PEH.shape[:2]
    mask_PE = np.ones(shape, np.int64) if inputs.attention_mask is None else np.asarray(inputs.attention_mask)
    if mask_PE.shape != shape or mask_PE.dtype != np.int64:
        raise InputError(
            f"attention_mask is {mask_PE.dtype} of shape {mask_PE.shape}, expected int64 of shape {shape}, as the "
            "first axes of hidden_states."
        )
    if not np.isin(mask_PE, (0, 1)).all() or not mask_PE.any(axis=1).all():
        raise InputError("attention_mask holds other values than 0 and 1, or a row without a 1.")

    def encode(places: Sequence[int]) -> CrossAttention:
        rows = list(places)
        return CrossAttention(cross, {"encoder_hidden_states": states_PEH[rows]}, mask_PE[rows])

    return Request([[start_token_id]] * shape[0], [shape[1]] * shape[0], encode)
