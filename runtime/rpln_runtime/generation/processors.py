"""Changes of a row's logits that follow from its tokens so far. Greedy search, sampling and beam search all make them.

They compute what the classes in transformers' generation/logits_process.py do (4.57.6 and 5.23), in the order of
`_get_logits_processor` in its generation/utils.py. Where these versions differ, it is 5.23: padding is no earlier
token, and one token before it is enough to complete a bad word of two. In a batch, transformers takes the padding
before a prompt for a part of it; here every row is treated as it is alone.

Shapes: R rows, V vocabulary, T tokens of a row, N tokens of an n-gram. All logits are fp32; -inf excludes a token.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from rpln_runtime.errors import InputError
from rpln_runtime.generation.options import GenerationOptions

_EXCLUDED: Final = np.float32(-np.inf)


@dataclass(frozen=True, slots=True)
class Earlier:
    """The tokens of a row before the one that is chosen.

    Attributes:
        prompt: the tokens that the decoder started with.
        new: the new tokens.
    """

    prompt: Sequence[int]
    new: Sequence[int]


class LogitsProcessor:
    """What the options of a generation change in the logits of a row before a token is chosen."""

    def __init__(self, options: GenerationOptions, *, stops: Collection[int], limit: int, vocab_size: int) -> None:
        """Make the changes that `options` ask for.

        Args:
            options: the options of the call.
            stops: the tokens that end a text.
            limit: the most new tokens of a row.
            vocab_size: the number of ids of tokens.
        """
        self._options, self._limit = options, limit
        self._ends = _ids(token for token in stops if token < vocab_size)
        self._words = [_ids(word) for word in options.bad_words_ids or () if not (len(word) == 1 and word[0] in stops)]
        self._last = _ids(options.last_tokens)
        self._suppressed, self._first = _ids(options.suppress_tokens or ()), _ids(options.begin_suppress_tokens or ())
        self._least = options.min_length if options.min_new_tokens is None else 0
        self._least_new = options.min_new_tokens or 0

    def __call__(self, logits_RV: np.ndarray, rows: Iterable[Earlier]) -> np.ndarray:
        """Return the changed logits, (R, V). `rows` are the tokens of each row so far."""
        if not self._changes_any:
            return logits_RV
        changed_RV = logits_RV.copy()
        for logits_V, row in zip(changed_RV, rows, strict=True):
            self._change(logits_V, row)
        return changed_RV

    @property
    def _changes_any(self) -> bool:
        return bool(
            self._options.repetition_penalty != 1
            or self._options.no_repeat_ngram_size
            or self._words
            or self._least
            or self._least_new
            or self._options.forced_bos_token_id is not None
            or self._last.size
            or self._suppressed.size
            or self._first.size
        )

    def _change(self, logits_V: np.ndarray, row: Earlier) -> None:
        """Change the logits of a row in place."""
        options, tokens_T, new = self._options, _ids([*row.prompt, *row.new]), len(row.new)
        forced = options.forced_bos_token_id
        if options.repetition_penalty != 1:
            penalize_repetition(logits_V, tokens_T, options.repetition_penalty)
        if options.no_repeat_ngram_size:
            logits_V[repeating_tokens(tokens_T, options.no_repeat_ngram_size)] = _EXCLUDED
        for word in self._words:
            if _ends_with(tokens_T, word[:-1]):
                logits_V[word[-1]] = _EXCLUDED
        if len(tokens_T) < self._least or new < self._least_new:
            logits_V[self._ends] = _EXCLUDED
        if forced is not None and len(tokens_T) == 1:
            _force(logits_V, _ids([forced]))
        if self._last.size and new == self._limit - 1:
            _force(logits_V, self._last)
        logits_V[self._suppressed] = _EXCLUDED
        if new == (1 if forced is not None and len(row.prompt) == 1 else 0):
            logits_V[self._first] = _EXCLUDED


def check_choice_is_left(highest: np.ndarray) -> None:
    """Raise InputError if one of these highest logits, of rows or of all rows, excludes its token."""
    if (highest == _EXCLUDED).any():
        raise InputError(
            "the options of the generation exclude every token. Look at suppress_tokens, bad_words_ids and "
            "no_repeat_ngram_size."
        )


def penalize_repetition(logits_V: np.ndarray, tokens_T: np.ndarray, penalty: float) -> None:
    """Make the tokens of a row less likely, once however often they occur (Keskar et al., 2019).

    Negative logits are multiplied by `penalty`, and others are divided by it.
    """
    seen = np.unique(tokens_T)
    scores = logits_V[seen]
    logits_V[seen] = np.where(scores < 0, scores * np.float32(penalty), scores / np.float32(penalty))


def repeating_tokens(tokens_T: np.ndarray, size: int) -> np.ndarray:
    """Return the tokens that would complete an n-gram of `size` tokens that a row has already."""
    if len(tokens_T) < size:
        return _ids(())
    ngrams_TN = np.lib.stride_tricks.sliding_window_view(tokens_T, size)
    start = tokens_T[len(tokens_T) - size + 1 :]
    return np.asarray(ngrams_TN[(ngrams_TN[:, :-1] == start).all(axis=1), -1])


def _ends_with(tokens_T: np.ndarray, ending: np.ndarray) -> bool:
    return len(ending) <= len(tokens_T) and np.array_equal(tokens_T[len(tokens_T) - len(ending) :], ending)


def _force(logits_V: np.ndarray, tokens: np.ndarray) -> None:
    """Exclude all tokens but these."""
    logits_V[:] = _EXCLUDED
    logits_V[tokens] = 0


def _ids(tokens: Iterable[int]) -> np.ndarray:
    return np.array(list(tokens), np.int64)
