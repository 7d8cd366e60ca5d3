"""Greedy search and sampling: one token a row and step, each row for itself.

Shapes: R rows that still grow, V vocabulary.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from rpln_runtime.generation.logits import penalize, warp
from rpln_runtime.generation.options import GenerationOptions
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
    """Let `rows` grow by at most `limit` tokens each; yield each of them whenever it got one.

    `logits_RV` are those after the prompts, in the order of `rows`. Rows that have ended take no further part.
    """
    while True:
        earlier = ([*row.context, *row.tokens] for row in rows)
        tokens_R = choose(penalize(logits_RV, earlier, options), rows, options)
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
    """Return a token for each row: the likeliest, or one drawn by its probability from the row's own numbers."""
    if not options.do_sample:
        return np.asarray(logits_RV.argmax(axis=1))
    warped_RV = warp(logits_RV, options)
    return np.array([draw(logits_V, row.random.random()) for logits_V, row in zip(warped_RV, rows, strict=True)])


def draw(logits_V: np.ndarray, number: float) -> int:
    """Return the token whose probability, laid out from 0 to 1 beside those of the others, covers `number`."""
    possible = np.flatnonzero(logits_V > -np.inf)
    logits = logits_V[possible].astype(np.float64)
    edges = np.cumsum(np.exp(logits - logits.max()))
    return int(possible[np.searchsorted(edges, number * edges[-1], side="right")])
