"""Text classification: labels with scores for a text, or for a pair of texts.

The answers equal those of transformers' TextClassificationPipeline (4.57 and 5.x), except that a text that is too long
is refused, unless `truncation` is True.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, TypedDict

import numpy as np

from rpln_runtime.errors import InputError
from rpln_runtime.options import check_choice, check_integer
from rpln_runtime.postprocess.base import (
    TEXT_FIELD,
    FinishedItem,
    FinishedRow,
    ItemField,
    Postprocess,
    fields_from_item,
    softmax,
)
from rpln_runtime.tokenization import Encoding


class LabelScore(TypedDict):
    """A label and its score.

    Attributes:
        label: the name of the label.
        score: what `function_to_apply` makes of its logit, by default a probability.
    """

    label: str
    score: float


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return the logistic function of `logits`, in a form that does not overflow."""
    return (1 + np.tanh(logits / 2)) / 2


def _identity(logits: np.ndarray) -> np.ndarray:
    return logits


_FUNCTIONS: Final[dict[str, Callable[[np.ndarray], np.ndarray]]] = {
    "softmax": softmax,
    "sigmoid": sigmoid,
    "none": _identity,
}
"""The functions that turn the logits of a text, (labels), into scores, by name."""
_FUNCTION_OF_PROBLEM: Final = {
    "regression": "none",
    "multi_label_classification": "sigmoid",
    "single_label_classification": "softmax",
}
"""The default function for each `problem_type` of the config."""


@dataclass(frozen=True, kw_only=True)
class TextClassification(Postprocess[np.ndarray]):
    """Text classification and its options.

    Attributes:
        top_k: how many labels an answer has, best first. None means all labels. "best" means only the best one: as in
            transformers, all answers are then in one flat list, also that for a single text.
        function_to_apply: what makes scores of logits: "softmax", "sigmoid" or "none". None means what the config's
            `problem_type` says, or else sigmoid for one label and softmax for several.
        truncation: whether a text that is too long is cut. Otherwise it raises InputError.
    """

    top_k: int | Literal["best"] | None = "best"
    function_to_apply: str | None = None
    truncation: bool = False

    fields: ClassVar[tuple[ItemField, ...]] = (TEXT_FIELD, ItemField(name="text_pair", optional=True))

    def __post_init__(self) -> None:
        if type(self.top_k) is int:
            check_integer("top_k", self.top_k, minimum=1)
        elif self.top_k not in ("best", None):
            raise InputError(f"top_k is {self.top_k!r}, expected an integer, 1 or more, 'best' or None.")
        if self.function_to_apply is not None:
            check_choice("function_to_apply", self.function_to_apply, tuple(_FUNCTIONS))

    def encode(self, item: Any) -> Sequence[Encoding]:
        """Return the tokens of `item`, a text or a mapping with `text` and `text_pair`."""
        pair = {"text": item} if isinstance(item, str) else fields_from_item(item, self.fields)
        return [self.encode_fitting(pair["text"], pair.get("text_pair"), truncation=self.truncation)]

    def score(self, row: FinishedRow) -> np.ndarray:
        """Return the scores of the labels, (labels)."""
        return np.array(self._function()(row.outputs["logits"]))

    def answer(self, finished: FinishedItem[np.ndarray]) -> LabelScore | list[LabelScore]:
        """Return the best labels of the text."""
        (scores,) = finished.scores
        order = np.argsort(-scores, kind="stable")[: 1 if self.top_k == "best" else self.top_k]
        ranked = [LabelScore(label=self.manifest.labels[label], score=float(scores[label])) for label in order]
        return ranked[0] if self.top_k == "best" else ranked

    def results(self, answers: list[Any], *, single: bool) -> Any:
        """Return one flat list of labels for "best", and otherwise the list of labels of each text."""
        return answers if self.top_k == "best" else super().results(answers, single=single)

    def _function(self) -> Callable[[np.ndarray], np.ndarray]:
        by_count = "sigmoid" if len(self.manifest.labels) == 1 else "softmax"
        # One label means sigmoid even for "single_label_classification", as in transformers.
        named = by_count if self.manifest.problem_type == "single_label_classification" else None
        name = self.function_to_apply or named or _FUNCTION_OF_PROBLEM.get(self.manifest.problem_type or "", by_count)
        return _FUNCTIONS[name]
