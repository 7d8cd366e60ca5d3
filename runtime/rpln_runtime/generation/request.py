"""Requests: what a decoder starts from and what it reads from an encoder, whatever kind of inputs a call has.

Shapes: P prompts, E tokens of the longest encoder sequence, H hidden size of the encoder.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from rpln_runtime.errors import InputError, ManifestError
from rpln_runtime.generation.cross_attention import CrossAttention
from rpln_runtime.inputs import check_feeds
from rpln_runtime.manifest import Generation
from rpln_runtime.options import check_integer, plain
from rpln_runtime.session import Session

Prompts: TypeAlias = Sequence[Sequence[int]]
"""Prompts, or texts, as lists of token ids."""


@dataclass(frozen=True, slots=True, eq=False)
class EncoderStates:
    """The output of an encoder of your own, for a bundle with a graph `cross`.

    Attributes:
        hidden_states: the last hidden states, (texts, tokens, hidden size of the encoder), in the dtype of the graph's
            input.
        attention_mask: 1 for tokens and 0 for padding, (texts, tokens), int64. None means that there is no padding.
    """

    hidden_states: np.ndarray
    attention_mask: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """Prompts to continue.

    Attributes:
        contexts: the tokens that the decoder starts with, a list for each prompt.
        lengths: a number of tokens for each prompt, by which prompts are sorted into batches.
        encode: a function that returns what the decoder reads from the encoder, for the prompts at some places. It
            returns None if the decoder reads no encoder.
    """

    contexts: Prompts
    lengths: Sequence[int]
    encode: Callable[[Sequence[int]], CrossAttention | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The parts of a bundle that make requests of what a user gives.

    Attributes:
        generation: what the bundle says about generating.
        encoder: the graph `encoder`, for texts; None if there is none.
        cross: the graph `cross`, for the output of another encoder; None if there is none.
    """

    generation: Generation
    encoder: Session | None
    cross: Session | None

    def request(self, inputs: Prompts | EncoderStates) -> Request:
        """Return the request for `inputs`. Raises InputError for inputs that the bundle does not take."""
        if self.encoder is not None:
            if isinstance(inputs, EncoderStates):
                raise InputError("the bundle has an encoder of its own: expected texts, not EncoderStates.")
            return _request_from_texts(inputs, self.encoder, self._start_token)
        if self.cross is not None:
            if not isinstance(inputs, EncoderStates):
                raise InputError(
                    "the bundle has no encoder: expected EncoderStates with the output of your own encoder."
                )
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
            raise ManifestError("the manifest has no start_token_id for the decoder. Export the checkpoint again.")
        return self.generation.start_token_id


def check_tokens(inputs: Prompts, vocab_size: int) -> Prompts:
    """Return `inputs` as lists of Python's integers.

    Raises InputError for a prompt that is not a list, and for a token that is not in the vocabulary.
    """
    given = plain(inputs)
    rows = [np.asarray(row).tolist() for row in given] if isinstance(given, Iterable) else [given]
    for row in rows:
        if not isinstance(row, list):
            raise InputError(f"a prompt is {row!r}, expected a list of token ids: pass a list of such lists.")
    for token in (token for row in rows for token in row):
        check_integer("a prompt's token", token, minimum=0, maximum=vocab_size - 1)
    return rows


def _request_from_prompts(prompts: Prompts, bos_token_id: int | None) -> Request:
    """Return the request of a decoder without an encoder. An empty prompt becomes the token that texts begin with."""
    contexts = []
    for prompt in prompts:
        if prompt:
            contexts.append(prompt)
        elif bos_token_id is not None:
            contexts.append([bos_token_id])
        else:
            raise InputError("a prompt is empty, and this model has no token that texts begin with: pass a text.")
    return Request(contexts, [len(context) for context in contexts], lambda _: None)


def _request_from_texts(texts: Prompts, encoder: Session, start_token_id: int) -> Request:
    """Return the request for texts that the bundle's encoder reads."""
    manifest = encoder.manifest
    for text in texts:
        if not 0 < len(text) <= manifest.usable_length:
            raise InputError(
                f"a text has {len(text)} tokens, but the encoder takes 1 to {manifest.usable_length}: shorten the text."
            )

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
    """Return the request for the output of another encoder."""
    states_PEH = inputs.hidden_states
    check_feeds({"encoder_hidden_states": states_PEH}, cross.graph, cross.manifest)
    if not np.isfinite(states_PEH).all():
        raise InputError("hidden_states has NaN or infinite values: look for the reason in your encoder.")
    shape = states_PEH.shape[:2]
    mask_PE = np.ones(shape, np.int64) if inputs.attention_mask is None else np.asarray(inputs.attention_mask)
    if mask_PE.shape != shape or mask_PE.dtype != np.int64:
        raise InputError(
            f"attention_mask is {mask_PE.dtype} of shape {mask_PE.shape}, expected int64 of shape {shape}, as the "
            "first axes of hidden_states."
        )
    if not np.isin(mask_PE, (0, 1)).all() or not mask_PE.any(axis=1).all():
        raise InputError(
            "attention_mask has a value other than 0 and 1, or a row without a 1: expected 1 for every token and 0 for "
            "padding."
        )

    def encode(places: Sequence[int]) -> CrossAttention:
        rows = list(places)
        return CrossAttention(cross, {"encoder_hidden_states": states_PEH[rows]}, mask_PE[rows])

    return Request([[start_token_id]] * shape[0], [shape[1]] * shape[0], encode)
