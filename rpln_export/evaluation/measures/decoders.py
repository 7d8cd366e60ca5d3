"""Decoders: how probable a text is, token by token, where the decoder is fed the right tokens before each."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from rpln_export.evaluation.measures.base import DataField, Fields, Metric, too_long
from rpln_export.evaluation.measures.predicted_tokens import Predicted, PredictedTokens
from rpln_export.evaluation.metrics import perplexity
from rpln_export.evaluation.rows import UNCOUNTED, Row
from rpln_runtime.errors import InputError
from rpln_runtime.tasks import SEQUENCE
from rpln_runtime.tokenization import Encoding


class _Decoder(PredictedTokens):
    """A measure of a decoder's probabilities."""

    metrics: ClassVar = (Metric(name="perplexity", is_share=False, higher_is_better=False),)

    def scores(self, fields: Sequence[Fields], predictions: Sequence[Predicted]) -> dict[str, float]:  # noqa: ARG002 # every measure has it
        """Return the geometric mean of 1 / P of all tokens."""
        return {
            "perplexity": perplexity([one.nats for one in predictions], sum(len(one.tokens) for one in predictions))
        }

    @property
    def _limit(self) -> int:
        """The most tokens that the decoder is fed."""
        return self.manifest.axes[SEQUENCE].maximum or self.manifest.usable_length


class Continuations(_Decoder):
    """Texts whose tokens are predicted from those before them.

    Long texts are read in windows that share half of their tokens. Each token counts once: in the first window that has
    it. Special tokens before a text stand before each window, and those behind it are left out, as in a prompt.
    """

    fields: ClassVar = (DataField(name="text"),)

    def rows(self, fields: Fields) -> list[Row]:
        """Return each window over the text. Raises InputError for a text without a token to predict."""
        rows = list(self._windows(self.tokenizer.encode(fields["text"])))
        if not any((row.targets != UNCOUNTED).any() for row in rows):
            raise InputError("its 'text' has no token to predict")
        return rows

    def _windows(self, encoding: Encoding) -> Iterator[Row]:
        inside = np.flatnonzero(encoding.sequences == 0)
        head = np.arange(inside[0]) if inside.size else inside
        room = self._limit + 1 - len(head)  # the last token is predicted, but not fed
        counted = 0
        while counted < len(inside):
            start = max(0, counted - room // 2)
            end = min(start + room, len(inside))
            window = encoding.take(np.concatenate([head, inside[start:end]]))
            targets = window.ids[1:].copy()
            targets[: max(0, len(targets) - (end - counted))] = UNCOUNTED
            if len(targets):
                yield Row(encoding=window, decoder_ids=window.ids[:-1], targets=targets)
            counted = end


class Translations(_Decoder):
    """Texts that an encoder-decoder reads, and the texts that it should write, with the token that ends them.

    The decoder is fed the token that it starts with, and then the text without special tokens.
    """

    fields: ClassVar = (DataField(name="text"), DataField(name="target"))

    def rows(self, fields: Fields) -> list[Row]:
        """Return the two texts in tokens. Raises InputError for one that is too long, unless it may be cut."""
        generation = self.manifest.generation
        assert generation is not None and generation.start_token_id is not None  # the manifest of an encoder-decoder
        source, target = self.tokenizer.encode(fields["text"]), self.tokenizer.encode(fields["target"])
        written = target.ids[target.sequences == 0]
        if len(written) + 1 > self._limit and not self.truncation:
            raise InputError(too_long("'target'", len(written) + 1, self._limit))
        targets = np.array([*written, *generation.eos_token_ids[:1]], np.int64)[: self._limit]
        if not targets.size:
            raise InputError("its 'target' has no token to predict")
        fed = np.array([generation.start_token_id, *targets[:-1]], np.int64)
        return [Row(encoding=self.cut(source, "'text'"), decoder_ids=fed, targets=targets)]
