"""Greedy search and sampling: in each step, every row gets a token, which does not depend on other rows.

Shapes: R rows that still grow, V vocabulary.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from rpln_runtime.generation.logits import warp
from rpln_runtime.generation.options import GenerationOptions
from rpln_runtime.generation.processors import Earlier, LogitsProcessor, check_choice_is_left
from rpln_runtime.generation.sequences import GrowingSequence
from rpln_runtime.generation.steps import GenerationSteps
from rpln_runtime.generation.stopping import Stopping


def sample(
    steps: GenerationSteps,
    logits_RV: np.ndarray,
    rows: Sequence[GrowingSequence],
    *,
    limit: int,
    options: GenerationOptions,
    stop: Stopping,
) -> Iterator[GrowingSequence]:
    """Let `rows` grow, and yield a row whenever it has a new token.

    Args:
        steps: the decoder, which has computed the prompts.
        logits_RV: the logits after the prompts, in the order of `rows`.
        rows: the sequences.
        limit: the most new tokens of a sequence.
        options: the options of the call.
        stop: what ends a sequence.

    Rows that have ended are no longer computed.
    """
    process = LogitsProcessor(options, stops=stop.tokens, limit=limit, vocab_size=logits_RV.shape[1])
    while True:
        earlier = (Earlier(row.context, row.tokens) for row in rows)
        tokens_R = choose(process(logits_RV, earlier), rows, options)
        growing = []
        for index, (row, token) in enumerate(zip(rows, tokens_R.tolist(), strict=True)):
            row.tokens.append(token)
            yield row
            if len(row.tokens) < limit and not stop.ends(row.tokens):
                growing.append(index)
        if not growing:
            return
        rows = [rows[index] for index in growing]
        steps.select(np.array(growing))
        logits_RV = steps.step(tokens_R[growing])


def choose(logits_RV: np.ndarray, rows: Sequence[GrowingSequence], options: GenerationOptions) -> np.ndarray:
    """Return a token for each row: the likeliest one, or one that is drawn with the row's own random numbers.

    Raises InputError if the options exclude all tokens of a row.
    """
    check_choice_is_left(logits_RV.max(axis=1))
    if not options.do_sample:
        return np.asarray(logits_RV.argmax(axis=1))
    warped_RV = warp(logits_RV, options)
    return np.array([draw(logits_V, row.random.random()) for logits_V, row in zip(warped_RV, rows, strict=True)])


def draw(logits_V: np.ndarray, number: float) -> int:
    """Return the token that `number`, from 0 to 1, falls on.

    The tokens share the range from 0 to 1 in the order of their ids, each with a part as long as its probability.
    """
    possible = np.flatnonzero(logits_V > -np.inf)
    logits = logits_V[possible].astype(np.float64)
    edges = np.cumsum(np.exp(logits - logits.max()))
    return int(possible[np.searchsorted(edges, number * edges[-1], side="right")])
