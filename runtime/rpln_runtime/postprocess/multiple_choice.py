"""Multiple choice: which of several choices fits a prompt best. transformers has no pipeline for this task.

An item is a mapping: {"prompt": "The sky is", "choices": ["blue.", "a fish."]}. As in the documentation of
transformers' models, the prompt and each choice are encoded as a pair.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypedDict

import numpy as np

from rpln_runtime.errors import InputError
from rpln_runtime.postprocess.base import FinishedItem, FinishedRow, ItemField, Postprocess, fields_from_item, softmax
from rpln_runtime.tokenization import Encoding


class Choice(TypedDict):
    """The best choice for a prompt.

    Attributes:
        answer: the text of the choice.
        index: its place in the list of choices.
        score: its probability.
        scores: the probabilities of all choices, in their order.
    """

    answer: str
    index: int
    score: float
    scores: list[float]


@dataclass(frozen=True, kw_only=True)
class MultipleChoice(Postprocess[float]):
    """Multiple choice and its options.

    Attributes:
        truncation: whether a pair that is too long is cut, the longer text first. Otherwise it raises InputError.
    """

    truncation: bool = False

    fields: ClassVar[tuple[ItemField, ...]] = (ItemField(name="prompt"), ItemField(name="choices", several=True))

    def encode(self, item: Any) -> Sequence[Encoding]:
        """Return the tokens of the prompt with each choice."""
        question = fields_from_item(item, self.fields)
        choices = question["choices"]
        if isinstance(choices, str) or not isinstance(choices, Sequence) or not choices:
            raise InputError(f"choices is {choices!r}, expected a list of at least one text.")
        return [self.encode_fitting(question["prompt"], choice, truncation=self.truncation) for choice in choices]

    def score(self, row: FinishedRow) -> float:
        """Return the logit of a choice."""
        return float(row.outputs["logits"][0])

    def answer(self, finished: FinishedItem[float]) -> Choice:
        """Return the choice with the highest probability."""
        probabilities = softmax(np.array(finished.scores))
        best = int(probabilities.argmax())
        return Choice(
            answer=finished.item["choices"][best],
            index=best,
            score=float(probabilities[best]),
            scores=probabilities.tolist(),
        )
