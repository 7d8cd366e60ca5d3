"""Beam search: for each prompt, the continuations that are likeliest as a whole.

It finds the tokens and scores of `_beam_search` in transformers' generation/utils.py (4.57.6 and 5.23), with its
`early_stopping`, its `length_penalty` and its fp32 arithmetic. The search for one prompt does not depend on the others
in its batch.

Shapes: P prompts that are not done, K beams, V vocabulary, R = P * K rows.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from rpln_runtime.generation.logits import log_softmax
from rpln_runtime.generation.options import GenerationOptions
from rpln_runtime.generation.processors import Earlier, LogitsProcessor, check_choice_is_left
from rpln_runtime.generation.sequences import Generated
from rpln_runtime.generation.steps import GenerationSteps
from rpln_runtime.generation.stopping import Stopping

_NEVER: Final = np.float32(-1e9)
"""The score of what must not be chosen. As in transformers it is finite: where nothing else is left, it is chosen."""


def search(
    steps: GenerationSteps,
    logits_PV: np.ndarray,
    contexts: Sequence[Sequence[int]],
    *,
    limit: int,
    options: GenerationOptions,
    stop: Stopping,
) -> list[list[Generated]]:
    """Return the best `num_return_sequences` sequences for each prompt, best first.

    Args:
        steps: the decoder, which has computed the prompts.
        logits_PV: the logits after each prompt.
        contexts: the tokens of each prompt.
        limit: the most new tokens of a sequence.
        options: the options of the call.
        stop: what ends a sequence.
    """
    beams = options.num_beams
    searches = [BeamSearch(context, limit=limit, options=options, stop=stop) for context in contexts]
    rows = np.repeat(np.arange(len(searches)), beams)
    steps.select(rows)
    logits_RV = logits_PV[rows]
    active = searches
    process = LogitsProcessor(options, stops=stop.tokens, limit=limit, vocab_size=logits_RV.shape[1])
    while True:
        earlier = (row for one in active for row in one.earlier())
        scores_RV = process(log_softmax(logits_RV), earlier)
        moves = [one.advance(scores) for one, scores in zip(active, np.split(scores_RV, len(active)), strict=True)]
        going = [index for index, one in enumerate(active) if not one.done]
        if not going:
            return [one.best() for one in searches]
        active = [active[index] for index in going]
        steps.select(np.concatenate([moves[index][1] + index * beams for index in going]))
        logits_RV = steps.step(np.concatenate([moves[index][0] for index in going]))


class BeamSearch:
    """The search for the continuations of one prompt.

    A beam is open as long as it may go on, and ended when a stop token, a stop string or the limit ends it.

    Attributes:
        done: whether the search is over, because no later sequence could be among the best.
    """

    def __init__(self, context: Sequence[int], *, limit: int, options: GenerationOptions, stop: Stopping) -> None:
        beams = options.num_beams
        self._context, self._limit, self._options, self._stop = context, limit, options, stop
        # Even if the best tokens of every beam are stop tokens, `num_beams` candidates are left to go on.
        self._kept = max(2, 1 + len(stop.tokens)) * beams
        self._open: list[list[int]] = [[] for _ in range(beams)]
        # At first all beams are the same prompt, so only one of them takes part.
        self._open_scores = np.where(np.arange(beams) == 0, np.float32(0), _NEVER)
        self._ended: list[list[int]] = [[] for _ in range(beams)]
        self._ended_scores = np.full(beams, _NEVER)
        self._has_ended = np.zeros(beams, bool)
        self.done = False

    def earlier(self) -> list[Earlier]:
        """Return the tokens of each open beam so far."""
        return [Earlier(self._context, tokens) for tokens in self._open]

    def advance(self, scores_KV: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Choose the beams of the next step.

        `scores_KV` are the log-probabilities of the next tokens. Returns the new token of each beam, (K), and the index
        of the beam that it continues, (K). Raises InputError if the options exclude all tokens of all beams.
        """
        check_choice_is_left(scores_KV.max())
        beams, vocab_size = scores_KV.shape
        totals = (scores_KV + self._open_scores[:, None]).ravel()
        best = _best(totals, self._kept)
        scores, origins, tokens = totals[best], best // vocab_size, best % vocab_size
        candidates = [[*self._open[origin], token] for origin, token in zip(origins, tokens.tolist(), strict=True)]
        ends = np.array([len(one) >= self._limit or self._stop.ends(one) for one in candidates])

        self._end(candidates, scores, ends)
        open_scores = scores + ends * _NEVER
        going = _best(open_scores, beams)
        self._open = [candidates[index] for index in going]
        self._open_scores = open_scores[going]
        self._check_done(every_candidate_ended=bool(ends.all()))
        return tokens[going], origins[going]

    def best(self) -> list[Generated]:
        """Return the best sequences that have ended, best first."""
        found = zip(self._ended, self._ended_scores.tolist(), strict=True)
        return [Generated(tokens, score) for tokens, score in found][: self._options.num_return_sequences]

    def _end(self, candidates: list[list[int]], scores: np.ndarray, ends: np.ndarray) -> None:
        """Keep the best sequences that have ended.

        These are the kept ones so far, and those of the `num_beams` best candidates that end now.
        """
        beams = len(self._open)
        ending = ends & (np.arange(len(ends)) < beams)
        final = scores / self._powered(len(candidates[0])) + ~ending * _NEVER
        sequences = self._ended + candidates
        has_ended = np.concatenate([self._has_ended, ending])
        merged = np.concatenate([self._ended_scores, final])
        best = _best(merged, beams)
        self._ended = [sequences[index] for index in best]
        self._ended_scores, self._has_ended = merged[best], has_ended[best]

    def _check_done(self, *, every_candidate_ended: bool) -> None:
        """Set `done` if the best open beam can no longer be better than the worst sequence that is kept."""
        length = len(self._open[0])
        if self._options.early_stopping == "never" and self._options.length_penalty > 0:
            length = self._limit
        attainable = self._open_scores[0] / self._powered(length)
        to_beat = np.where(self._has_ended, self._ended_scores.min(), _NEVER)
        complete = self._options.early_stopping is True and bool(self._has_ended.all())
        self.done = complete or every_candidate_ended or not (attainable > to_beat).any()

    def _powered(self, length: int) -> np.float32:
        """Return what a score is divided by: the length to the power of `length_penalty`."""
        return np.float32(length**self._options.length_penalty)


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the `count` highest scores, best first. Equal scores are in the order of their indices."""
    place = max(len(scores) - count, 0)
    found = np.flatnonzero(scores >= np.partition(scores, place)[place])
    return found[np.argsort(-scores[found], kind="stable")][:count]
