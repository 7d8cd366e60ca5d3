"""Fill-mask: the tokens in the places of masks, which the text has or which are put into it."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from typing import ClassVar, Final

import numpy as np

from rpln_export.evaluation.measures.base import TEXTS, DataField, Fields, Metric
from rpln_export.evaluation.measures.predicted_tokens import Predicted, PredictedTokens, predicted_from_logits
from rpln_export.evaluation.metrics import accuracy, perplexity
from rpln_export.evaluation.rows import Outputs, Row
from rpln_runtime.errors import InputError
from rpln_runtime.postprocess.base import FinishedRow
from rpln_runtime.postprocess.fill_mask import FillMask
from rpln_runtime.tokenization import windows

MASK_EVERY: Final = 7
"""One of this many tokens of a row is masked: about 15%, as in RoBERTa's training."""


class _Masks(PredictedTokens):
    """A measure of the tokens that a network finds for masks."""

    metrics: ClassVar = (
        Metric(name="accuracy"),
        Metric(name="pseudo_perplexity", is_share=False, higher_is_better=False),
    )

    def read(self, row: Row, outputs: Outputs) -> Predicted:
        """Return the predictions at the masks of a row."""
        return predicted_from_logits(
            self._postprocess().logits_of_masks(FinishedRow(row.encoding, outputs)), row.targets
        )

    def scores(self, fields: Sequence[Fields], predictions: Sequence[Predicted]) -> dict[str, float]:  # noqa: ARG002 # every measure has it
        """Return the share of right tokens, and the geometric mean of 1 / P of the right tokens."""
        right, found = (np.concatenate([getattr(one, name) for one in predictions]) for name in ("targets", "tokens"))
        nats = [one.nats for one in predictions]
        return {"accuracy": accuracy(right, found), "pseudo_perplexity": perplexity(nats, len(right))}

    def _postprocess(self) -> FillMask:
        return FillMask(manifest=self.manifest, tokenizer=self.tokenizer, truncation=self.truncation)


class MaskedTexts(_Masks):
    """Texts without masks. Each token is masked once: a text is read several times, with every seventh token masked."""

    fields: ClassVar = (DataField(name="text"),)

    def rows(self, fields: Fields) -> list[Row]:
        """Return each window over the text, once for each of its sets of masks.

        Raises InputError for a text without tokens and for one with masks.
        """
        encoding = self.tokenizer.encode(fields["text"])
        mask = self._postprocess().manifest.mask_token_id
        assert mask is not None  # the post-processing sees to it
        if (encoding.ids == mask).any():
            raise InputError(f"its 'text' has {self.tokenizer.token(mask)}, but it has no 'targets' for it")
        rows = []
        for window in windows(encoding, max_length=self.manifest.usable_length, stride=0):
            inside = np.flatnonzero(window.sequences == 0)
            for masked in (inside[first::MASK_EVERY] for first in range(min(MASK_EVERY, len(inside)))):
                ids = window.ids.copy()
                ids[masked] = mask
                rows.append(Row(encoding=replace(window, ids=ids), targets=window.ids[masked]))
        if not rows:
            raise InputError("its 'text' has no tokens, expected some to mask")
        return rows


class Cloze(_Masks):
    """Texts with masks, and the token that belongs in the place of each."""

    fields: ClassVar = (DataField(name="text"), DataField(name="targets", kind=TEXTS))

    def rows(self, fields: Fields) -> list[Row]:
        """Return the tokens of the text. Raises InputError unless each mask has a target that is a single token."""
        mask = self._postprocess().manifest.mask_token_id
        targets = fields["targets"]
        assert mask is not None  # the post-processing sees to it
        parts = fields["text"].split(self.tokenizer.token(mask))
        if len(targets) != len(parts) - 1 or not targets:
            raise InputError(
                f"it has {len(targets)} 'targets', expected one for each of the masks in 'text', {len(parts) - 1}"
            )
        filled = self.tokenizer.encode("".join(chain(*zip_longest(parts, targets, fillvalue=""))))
        whole = self.tokenizer.encode(fields["text"])
        masks = whole.ids == mask
        if len(filled) != len(whole) or (filled.ids != whole.ids)[~masks].any():
            raise InputError(f"its 'targets' {targets!r} are not a single token each, as a mask is")
        encoding = self.cut(whole, "'text'")
        if not (encoding.ids == mask).any():
            raise InputError("its 'text' has no mask in the part that is left when it is cut")
        return [Row(encoding=encoding, targets=filled.ids[encoding.positions[encoding.ids == mask]])]
