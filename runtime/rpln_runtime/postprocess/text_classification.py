"""Text classification: labels with scores for a text or a pair of texts.

Results equal those of transformers' TextClassificationPipeline (4.57 and 5.x); a text that is too long is refused
unless `truncation` is asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, TypedDict

import numpy as np

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
    """A label and its score: a probability, or what `function_to_apply` makes of the logit."""

    label: str
    score: float


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Logistic function, written so that no logit overflows."""
    return (1 + np.tanh(logits / 2)) / 2


def _identity(logits: np.ndarray) -> np.ndarray:
    return logits


_FUNCTIONS: Final[dict[str, Callable[[np.ndarray], np.ndarray]]] = {
    "softmax": softmax,
    "sigmoid": sigmoid,
    "none": _identity,
}
_FUNCTION_OF_PROBLEM: Final = {
    "regression": "none",
    "multi_label_classification": "sigmoid",
    "single_label_classification": "softmax",
}


@dataclass(frozen=True, kw_only=True)
class TextClassification(Postprocess[np.ndarray]):
    """Options of text classification.

    Attributes:
        top_k: how many labels to answer with, best first, as a list for each text; None: all of them. "best" is the
            best one alone, and the answer one flat list, also for a single text: what transformers does by default.
        function_to_apply: "softmax", "sigmoid" or "none"; None: as the problem type says, or else sigmoid for one
            label and softmax for several.
        truncation: whether a text that is too long is cut.
    """

    top_k: int | Literal["best"] | None = "best"
    function_to_apply: str | None = None
    truncation: bool = False

    fields: ClassVar[tuple[ItemField, ...]] = (TEXT_FIELD, ItemField(name="text_pair", optional=True))

    def __post_init__(self) -> None:
        if isinstance(self.top_k, int):
            check_integer("top_k", self.top_k, minimum=1)
        elif self.top_k is not None:
            check_choice("top_k", self.top_k, ("best",))
        if self.function_to_apply is not None:
            check_choice("function_to_apply", self.function_to_apply, tuple(_FUNCTIONS))

    def encode(self, item: Any) -> list[Encoding]:
        """Encode a text, or a mapping with `text` and `text_pair`."""
        pair = {"text": item} if isinstance(item, str) else fields_from_item(item, self.fields)
        encoding = self.tokenizer.encode(pair["text"], pair.get("text_pair"))
        return [self.fit(encoding, truncation=self.truncation)]

    def score(self, row: FinishedRow) -> np.ndarray:
        """Return the scores of the labels, (labels)."""
        return np.array(self._function()(row.outputs["logits"]))

    def answer(self, case: FinishedItem[np.ndarray]) -> LabelScore | list[LabelScore]:
        """Return the best labels of the text."""
        (scores,) = case.scores
        order = np.argsort(-scores, kind="stable")[: 1 if self.top_k == "best" else self.top_k]
        ranked = [LabelScore(label=self.manifest.labels[label], score=float(scores[label])) for label in order]
        return ranked[0] if self.top_k == "best" else ranked

    def results(self, answers: list[Any], *, single: bool) -> Any:
        """Return one flat list for "best", otherwise a list for each text."""
        return answers if self.top_k == "best" else super().results(answers, single=single)

    def _function(self) -> Callable[[np.ndarray], np.ndarray]:
        by_count = "sigmoid" if len(self.manifest.labels) == 1 else "softmax"
        # One label means sigmoid even for "single_label_classification", as in transformers.
        named = by_count if self.manifest.problem_type == "single_label_classification" else None
        name = self.function_to_apply or named or _FUNCTION_OF_PROBLEM.get(self.manifest.problem_type or "", by_count)
        return _FUNCTIONS[name]
