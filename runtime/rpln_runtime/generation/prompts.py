"""Prompts: text to the tokens that a decoder continues, and batches of them padded on the left.

Shapes: R rows, S tokens of the longest prompt.
"""

from collections.abc import Sequence

import numpy as np

from rpln_runtime.errors import InputError
from rpln_runtime.generation.options import DEFAULT_NEW_TOKENS
from rpln_runtime.manifest import Generation
from rpln_runtime.tokenization import Encoding


def prompt_from_encoding(encoding: Encoding) -> list[int]:
    """Return the tokens for a decoder to go on from: the special ones before the text stay, those after it do not.

    Of an empty text nothing is left.
    """
    inside = np.flatnonzero(encoding.sequences == 0)
    return [int(token) for token in encoding.ids[: inside[-1] + 1]] if inside.size else []


def new_tokens(prompt: Sequence[int], asked: int | None, limit: int, generation: Generation) -> int:
    """Return how many tokens may follow `prompt` where a decoder takes `limit`: as many as `asked`, or the default.

    The default is the checkpoint's own, else DEFAULT_NEW_TOKENS; of either, as many as there is room for. The last new
    token is never fed, so it needs no position. Raises InputError where there is no room.
    """
    room = limit - len(prompt) + 1
    if room < 1:
        raise InputError(
            f"a prompt has {len(prompt)} tokens, the limit of this model is {limit}: it leaves no room for new ones. "
            "Shorten it."
        )
    if asked is None:
        return min(_default(prompt, generation), room)
    if asked > room:
        raise InputError(
            f"max_new_tokens is {asked}, but a prompt of {len(prompt)} tokens leaves room for {room}, as this model "
            f"takes {limit}. Lower it, or shorten the prompt."
        )
    return asked


def _default(prompt: Sequence[int], generation: Generation) -> int:
    if generation.max_new_tokens is not None:
        return generation.max_new_tokens
    if generation.max_length is not None:
        return max(generation.max_length - len(prompt), 1)
    return DEFAULT_NEW_TOKENS


def pad_left(prompts: Sequence[Sequence[int]], padding: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the prompts as rows that end together, and the mask of their real tokens; both (R, S), int64."""
    width = max(map(len, prompts))
    ids_RS = np.full((len(prompts), width), padding, np.int64)
    mask_RS = np.zeros((len(prompts), width), np.int64)
    for row, prompt in enumerate(prompts):
        ids_RS[row, width - len(prompt) :] = prompt
        mask_RS[row, width - len(prompt) :] = 1
    return ids_RS, mask_RS
