"""Fill-mask: the likeliest tokens for every mask token of a text.

The answers equal those of transformers' FillMaskPipeline (4.57 and 5.x), with two differences. A list of one text gets
a list of one answer. A text that is too long is refused, unless `truncation` is True.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypedDict

import numpy as np

from rpln_runtime.batching import masks_of
from rpln_runtime.errors import InputError, ManifestError
from rpln_runtime.options import check_integer
from rpln_runtime.postprocess.base import FinishedItem, FinishedRow, Postprocess, softmax
from rpln_runtime.tasks import SEQUENCE
from rpln_runtime.tokenization import Encoding


class Filling(TypedDict):
    """A token for a mask.

    Attributes:
        score: the probability of the token.
        token: the id of the token.
        token_str: the text of the token.
        sequence: the whole text with the token in the place of the mask.
    """

    score: float
    token: int
    token_str: str
    sequence: str


@dataclass(frozen=True, slots=True)
class Candidates:
    """The best tokens for every mask of a text, best first.

    Attributes:
        probabilities: (masks, top_k), fp32.
        ids: (masks, top_k), int64.
    """

    probabilities: np.ndarray
    ids: np.ndarray


@dataclass(frozen=True, kw_only=True)
class FillMask(Postprocess[Candidates]):
    """Fill-mask and its options.

    Attributes:
        top_k: how many tokens an answer has for each mask.
        targets: the tokens to choose from, by their names in the vocabulary; the name of a word after a space begins
            with "Ġ". For a name that is not in the vocabulary, the first token of its text is taken, with a warning.
            None means all tokens.
        truncation: whether a text that is too long is cut. Otherwise it raises InputError.
    """

    top_k: int = 5
    targets: str | Sequence[str] | None = None
    truncation: bool = False

    def __post_init__(self) -> None:
        check_integer("top_k", self.top_k, minimum=1)
        if self.manifest.mask_token_id is None:
            raise ManifestError(
                "the tokenizer of the bundle has no mask token, which fill-mask needs. Export the checkpoint with a "
                "tokenizer that has one (--tokenizer)."
            )
        if self.targets is not None and not len(self._target_ids):
            raise InputError(f"targets is {self.targets!r}, expected at least one token.")

    def encode(self, item: Any) -> Sequence[Encoding]:
        """Return the tokens of the text `item`. Raises InputError for a text without a mask token."""
        encoding = self.encode_fitting(item, truncation=self.truncation)
        if not self._masks(encoding).size:
            mask = self.tokenizer.token(self.manifest.mask_token_id or 0)
            raise InputError(
                f"a text has no {mask} among its {len(encoding)} tokens: put {mask} where you want to have a token."
            )
        return [encoding]

    def score(self, row: FinishedRow) -> Candidates:
        """Return the best tokens for every mask."""
        probabilities = softmax(self.logits_of_masks(row))
        return best_tokens(probabilities, top_k=self.top_k, allowed=None if self.targets is None else self._target_ids)

    def decoded_texts(self, encoding: Encoding, /) -> int:
        """Return how many fillings the answer has."""
        return len(self._masks(encoding)) * self.top_k

    def logits_of_masks(self, row: FinishedRow) -> np.ndarray:
        """Return the logits at every mask, (masks, vocabulary)."""
        logits = row.outputs["logits"]
        return logits[self._masks(row.encoding)] if self._of_every_token else logits

    def answer(self, finished: FinishedItem[Candidates]) -> list[Filling] | list[list[Filling]]:
        """Return the best tokens for the mask of the text. If it has several masks, return a list for each."""
        (encoding,), (candidates,) = finished.encodings, finished.scores
        masks = self._masks(encoding)
        fillings = [
            [
                self._filling(encoding, int(mask), int(token_id), float(probability), alone=len(masks) == 1)
                for token_id, probability in zip(ids, probabilities, strict=True)
            ]
            for mask, ids, probabilities in zip(masks, candidates.ids, candidates.probabilities, strict=True)
        ]
        return fillings[0] if len(masks) == 1 else fillings

    @cached_property
    def _of_every_token(self) -> bool:
        """Whether the graph gives logits for all tokens, not only for mask tokens."""
        return any(SEQUENCE in spec.shape for spec in self.manifest.graphs[0].outputs if spec.name == "logits")

    def _masks(self, encoding: Encoding) -> np.ndarray:
        return masks_of(encoding, self.manifest)

    def _filling(self, encoding: Encoding, mask: int, token_id: int, probability: float, *, alone: bool) -> Filling:
        ids = encoding.ids.copy()
        ids[mask] = token_id
        text_ids = ids[ids != self.manifest.pad_token_id].tolist()
        return Filling(
            score=probability,
            token=token_id,
            token_str=self.tokenizer.decode([token_id]),
            # A mask is a special token. If there are several, the other masks stay in the text.
            sequence=self.tokenizer.decode(text_ids, skip_special_tokens=alone),
        )

    @cached_property
    def _target_ids(self) -> np.ndarray:
        targets = [self.targets] if isinstance(self.targets, str) else self.targets or ()
        ids = {token_id for target in targets if (token_id := self._id_from_target(target)) is not None}
        return np.array(sorted(ids), np.int64)

    def _id_from_target(self, target: str) -> int | None:
        token_id = self.tokenizer.token_id(target)
        if token_id is not None:
            return token_id
        encoding = self.tokenizer.encode(target)
        inside = encoding.ids[encoding.sequences == 0]
        if not inside.size:
            return None
        first = int(inside[0])
        warnings.warn(
            f"the target {target!r} is not in the vocabulary: its first token {self.tokenizer.token(first)!r} is taken "
            "instead.",
            stacklevel=2,
        )
        return first


def best_tokens(probabilities: np.ndarray, *, top_k: int, allowed: np.ndarray | None) -> Candidates:
    """Return the `top_k` likeliest tokens for every mask, best first.

    `probabilities` is (masks, vocabulary). Only the ids in `allowed` are chosen from; None means all ids.
    """
    ids = np.arange(probabilities.shape[-1]) if allowed is None else allowed
    chosen = probabilities[:, ids]
    top_k = min(top_k, len(ids))
    best = np.argpartition(-chosen, top_k - 1, axis=-1)[:, :top_k]
    order = np.argsort(-np.take_along_axis(chosen, best, -1), axis=-1, kind="stable")
    best = np.take_along_axis(best, order, -1)
    return Candidates(probabilities=np.take_along_axis(chosen, best, -1), ids=ids[best])
