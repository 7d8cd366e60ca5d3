"""Text classification: a label, several labels or a value for each text or pair of texts."""

from collections.abc import Hashable, Sequence
from typing import ClassVar

import numpy as np

from rpln_export.evaluation.measures.base import LABEL, LABELS, NUMBER, DataField, Example, Fields, Measure, Metric
from rpln_export.evaluation.metrics import accuracy, f1_of_labels, macro_f1, spearman
from rpln_export.evaluation.rows import Outputs, Row
from rpln_runtime.manifest import Manifest

_TEXTS = (DataField(name="text"), DataField(name="text_pair", optional=True))
_REGRESSION = "regression"
_MULTI_LABEL = "multi_label_classification"


class _Texts(Measure[np.ndarray, np.ndarray]):
    """A measure of the logits of texts; a prediction is the logits of a text, (labels)."""

    def rows(self, fields: Fields) -> list[Row]:
        """Return the tokens of the text, or of the pair."""
        encoding = self.tokenizer.encode(fields["text"], fields.get("text_pair"))
        return [Row(encoding=self.cut(encoding, "'text'"))]

    def read(self, row: Row, outputs: Outputs) -> np.ndarray:  # noqa: ARG002 # every measure has it
        """Return the logits, (labels)."""
        return outputs["logits"].copy()

    def predictions(self, examples: Sequence[Example[np.ndarray]]) -> list[np.ndarray]:
        """Return the logits of each text, (labels)."""
        return [example.kept[0] for example in examples]


class SingleLabel(_Texts):
    """One label for each text."""

    fields: ClassVar = (*_TEXTS, DataField(name="label", kind=LABEL))
    metrics: ClassVar = (Metric(name="accuracy"), Metric(name="macro_f1"))

    @classmethod
    def fits(cls, manifest: Manifest) -> bool:
        """Return whether a text has one of several labels."""
        return manifest.problem_type not in (_REGRESSION, _MULTI_LABEL) and len(manifest.labels) > 1

    def check(self, fields: Fields) -> None:
        """Raise InputError for an example that is wrong, and for an unknown label."""
        super().check(fields)
        self.label_index(fields["label"], "'label'")

    def scores(self, fields: Sequence[Fields], predictions: Sequence[np.ndarray]) -> dict[str, float]:
        """Return the share of texts with the right label, and the mean of the labels' F1."""
        right = [self.label_index(one["label"], "'label'") for one in fields]
        found = [int(logits.argmax()) for logits in predictions]
        return {"accuracy": accuracy(right, found), "macro_f1": macro_f1(right, found)}

    def decisions(self, prediction: np.ndarray) -> Sequence[Hashable]:
        """Return the label."""
        return [int(prediction.argmax())]


class MultiLabel(_Texts):
    """Any number of labels for each text: those whose probability is more than a half."""

    fields: ClassVar = (*_TEXTS, DataField(name="labels", kind=LABELS))
    metrics: ClassVar = (Metric(name="macro_f1"), Metric(name="micro_f1"))

    @classmethod
    def fits(cls, manifest: Manifest) -> bool:
        """Return whether a text has any number of labels."""
        return manifest.problem_type == _MULTI_LABEL

    def check(self, fields: Fields) -> None:
        """Raise InputError for an example that is wrong, and for an unknown label."""
        super().check(fields)
        self._indices(fields)

    def scores(self, fields: Sequence[Fields], predictions: Sequence[np.ndarray]) -> dict[str, float]:
        """Return the mean of the labels' F1, and the F1 of all decisions together."""
        right = np.zeros((len(fields), len(self.manifest.labels)), np.int64)
        for place, one in enumerate(fields):
            right[place, self._indices(one)] = 1
        found = np.stack([logits > 0 for logits in predictions])
        return {f"{average}_f1": f1_of_labels(right, found, average) for average in ("macro", "micro")}

    def decisions(self, prediction: np.ndarray) -> Sequence[Hashable]:
        """Return for each label whether the text has it."""
        return [bool(has) for has in prediction > 0]

    def _indices(self, fields: Fields) -> list[int]:
        return [self.label_index(label, f"'labels'[{place}]") for place, label in enumerate(fields["labels"])]


class Regression(_Texts):
    """A value for each text."""

    fields: ClassVar = (*_TEXTS, DataField(name="score", kind=NUMBER))
    metrics: ClassVar = (Metric(name="spearman"),)

    @classmethod
    def fits(cls, manifest: Manifest) -> bool:
        """Return whether the network gives a single value."""
        return len(manifest.labels) == 1 and manifest.problem_type != _MULTI_LABEL

    def scores(self, fields: Sequence[Fields], predictions: Sequence[np.ndarray]) -> dict[str, float]:
        """Return the correlation of the ranks."""
        return {"spearman": spearman([one["score"] for one in fields], [float(logits[0]) for logits in predictions])}

    def decisions(self, prediction: np.ndarray) -> Sequence[Hashable]:  # noqa: ARG002 # every measure has it
        """Return nothing: a value is no decision."""
        return ()
