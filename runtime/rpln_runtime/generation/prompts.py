"""Prompts: the tokens that a decoder continues, and batches of prompts with padding on the left.

Shapes: R rows, S tokens of the longest prompt.
"""

from collections.abc import Sequence

import numpy as np

from rpln_runtime.errors import InputError
from rpln_runtime.generation.options import DEFAULT_NEW_TOKENS
from rpln_runtime.manifest import Generation
from rpln_runtime.tokenization import Encoding


def prompt_from_encoding(encoding: Encoding) -> list[int]:
    """Return the tokens for a decoder to continue.

    Special tokens before the text stay, and those after it are left out. An empty text gives an empty list.
    """
    inside = np.flatnonzero(encoding.sequences == 0)
    return [int(token) for token in encoding.ids[: inside[-1] + 1]] if inside.size else []


def new_tokens(prompt: Sequence[int], asked: int | None, limit: int, generation: Generation) -> int:
    """Return the most new tokens after `prompt`.

    Args:
        prompt: the tokens of the prompt.
        asked: the number that the user asked for. None means the checkpoint's own, or else DEFAULT_NEW_TOKENS, but no
            more than there is room for.
        limit: the most tokens that the decoder takes. The last new token is not fed to it, so it needs no room.
        generation: what the bundle says about generating.

    Raises InputError if there is no room, or less than the user asked for.
    """
    room = limit - len(prompt) + 1
    if room < 1:
        raise InputError(
            f"a prompt has {len(prompt)} tokens and leaves no room for new ones: the limit of this model is {limit}. "
            "Shorten the prompt."
        )
    if asked is None:
        return min(_default(prompt, generation), room)
    if asked > room:
        raise InputError(
            f"max_new_tokens is {asked}, but a prompt of {len(prompt)} tokens leaves room for {room}: the limit of "
            f"this model is {limit}. Lower max_new_tokens, or shorten the prompt."
        )
    return asked


def _default(prompt: Sequence[int], generation: Generation) -> int:
    """Return the most new tokens where the user says nothing."""
    if generation.max_new_tokens is not None:
        return generation.max_new_tokens
    if generation.max_length is not None:
        return max(generation.max_length - len(prompt), 1)
    return DEFAULT_NEW_TOKENS


def pad_left(prompts: Sequence[Sequence[int]], padding: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of the prompts, padded on the left, and the mask of their tokens. Both are (R, S), int64."""
    width = max(map(len, prompts))
    ids_RS = np.full((len(prompts), width), padding, np.int64)
    mask_RS = np.zeros((len(prompts), width), np.int64)
    for row, prompt in enumerate(prompts):
        ids_RS[row, width - len(prompt) :] = prompt
        mask_RS[row, width - len(prompt) :] = 1
    return ids_RS, mask_RS
