"""Question answering: the answers of the pipeline, compared by the rules of SQuAD.

Where the data has a question without an answer, the pipeline may give none, too, as with `handle_impossible_answer`.
"""

from collections.abc import Hashable, Sequence
from typing import ClassVar

import numpy as np

from rpln_export.evaluation.measures.base import TEXTS, DataField, Example, Fields, Measure, Metric
from rpln_export.evaluation.metrics import answer_f1, exact_match
from rpln_export.evaluation.rows import Outputs, Row
from rpln_runtime.postprocess.base import FinishedItem, FinishedRow
from rpln_runtime.postprocess.question_answering import QuestionAnswering, WindowSpans


class Answers(Measure[WindowSpans, str]):
    """An answer to each question, as a part of its context. No right answers mean that the context has none."""

    fields: ClassVar = (
        DataField(name="question"),
        DataField(name="context"),
        DataField(name="answers", kind=TEXTS),
    )
    metrics: ClassVar = (Metric(name="f1"), Metric(name="exact_match"))

    def rows(self, fields: Fields) -> list[Row]:
        """Return the tokens of the question with each window over the context."""
        return [Row(encoding=encoding) for encoding in self._postprocess().encode(_item(fields))]

    def read(self, row: Row, outputs: Outputs) -> WindowSpans:
        """Return the best answers in a window."""
        return self._postprocess().score(FinishedRow(row.encoding, outputs))

    def predictions(self, examples: Sequence[Example[WindowSpans]]) -> list[str]:
        """Return the answer to each question; it is empty where the pipeline finds none."""
        postprocess = self._postprocess(impossible=any(not example.fields["answers"] for example in examples))
        found = []
        for example in examples:
            encodings = [row.encoding for row in example.rows]
            answer = postprocess.answer(FinishedItem(_item(example.fields), encodings, example.kept))
            assert not isinstance(answer, list)  # with top_k 1, it is a single one
            found.append(answer["answer"])
        return found

    def scores(self, fields: Sequence[Fields], predictions: Sequence[str]) -> dict[str, float]:
        """Return the means of the answers' F1 and of their exact matches."""
        pairs = [(answer, one["answers"]) for answer, one in zip(predictions, fields, strict=True)]
        return {
            "f1": float(np.mean([answer_f1(*pair) for pair in pairs])),
            "exact_match": float(np.mean([exact_match(*pair) for pair in pairs])),
        }

    def decisions(self, prediction: str) -> Sequence[Hashable]:
        """Return the answer."""
        return [prediction]

    def _postprocess(self, *, impossible: bool = False) -> QuestionAnswering:
        return QuestionAnswering(manifest=self.manifest, tokenizer=self.tokenizer, handle_impossible_answer=impossible)


def _item(fields: Fields) -> dict[str, str]:
    return {name: fields[name] for name in ("question", "context")}
