"""Multiple choice: which of several continuations fits a prompt best. transformers has no pipeline for it.

An item is a mapping: {"prompt": "The sky is", "choices": ["blue.", "a fish."]}. Prompt and choice are encoded as a
pair, in this order, as the documentation of transformers' models does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypedDict

import numpy as np

from rpln_runtime.errors import InputError
from rpln_runtime.postprocess.base import FinishedItem, FinishedRow, ItemField, Postprocess, fields_from_item, softmax
from rpln_runtime.tokenization import Encoding


class Choice(TypedDict):
    """The best choice, its index and probability, and the probabilities of all choices in their order."""

    answer: str
    index: int
    score: float
    scores: list[float]


@dataclass(frozen=True, kw_only=True)
class MultipleChoice(Postprocess[float]):
    """Options of multiple choice.

    Attributes:
        truncation: whether a prompt and choice that are too long together are cut, the longer one first.
    """

    truncation: bool = False

    fields: ClassVar[tuple[ItemField, ...]] = (ItemField(name="prompt"), ItemField(name="choices", several=True))

    def encode(self, item: Any) -> list[Encoding]:
        """Encode a mapping with `prompt` and `choices`: a row for every choice."""
        question = fields_from_item(item, self.fields)
        choices = question["choices"]
        if isinstance(choices, str) or not isinstance(choices, Sequence) or not choices:
            raise InputError(f"choices are {choices!r}, expected a list of at least one text.")
        encodings = [self.tokenizer.encode(question["prompt"], choice) for choice in choices]
        return [self.fit(encoding, truncation=self.truncation) for encoding in encodings]

    def score(self, row: FinishedRow) -> float:
        """Return the logit of one choice: each is a row of its own, with one choice."""
        return float(row.outputs["logits"][0])

    def answer(self, case: FinishedItem[float]) -> Choice:
        """Return the choice with the highest probability."""
        probabilities = softmax(np.array(case.scores))
        best = int(probabilities.argmax())
        return Choice(
            answer=case.item["choices"][best],
            index=best,
            score=float(probabilities[best]),
            scores=probabilities.tolist(),
        )
