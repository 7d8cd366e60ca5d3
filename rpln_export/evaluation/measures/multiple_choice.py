"""Multiple choice: the choice that fits a prompt best."""

from collections.abc import Hashable, Sequence
from typing import ClassVar

import numpy as np

from rpln_export.evaluation.measures.base import INTEGER, TEXTS, DataField, Example, Fields, Measure, Metric
from rpln_export.evaluation.metrics import accuracy
from rpln_export.evaluation.rows import Outputs, Row
from rpln_runtime.errors import InputError


class Choices(Measure[float, int]):
    """One of several choices, given by its place in their list. A prediction is such a place."""

    fields: ClassVar = (
        DataField(name="prompt"),
        DataField(name="choices", kind=TEXTS),
        DataField(name="label", kind=INTEGER),
    )
    metrics: ClassVar = (Metric(name="accuracy"),)

    def check(self, fields: Fields) -> None:
        """Raise InputError for an example that is wrong, and for a label that is the place of no choice."""
        super().check(fields)
        count = len(fields["choices"])
        if not count:
            raise InputError("its 'choices' is empty, expected at least one choice")
        if not 0 <= fields["label"] < count:
            raise InputError(f"its 'label' is {fields['label']}, expected the place of a choice, 0 to {count - 1}")

    def rows(self, fields: Fields) -> list[Row]:
        """Return the tokens of the prompt with each choice."""
        pairs = [self.tokenizer.encode(fields["prompt"], choice) for choice in fields["choices"]]
        return [Row(encoding=self.cut(pair, f"'choices'[{place}]")) for place, pair in enumerate(pairs)]

    def read(self, row: Row, outputs: Outputs) -> float:  # noqa: ARG002 # every measure has it
        """Return the logit of a choice."""
        return float(outputs["logits"][0])

    def predictions(self, examples: Sequence[Example[float]]) -> list[int]:
        """Return the place of the best choice."""
        return [int(np.argmax(example.kept)) for example in examples]

    def scores(self, fields: Sequence[Fields], predictions: Sequence[int]) -> dict[str, float]:
        """Return the share of right choices."""
        return {"accuracy": accuracy([one["label"] for one in fields], predictions)}

    def decisions(self, prediction: int) -> Sequence[Hashable]:
        """Return the choice."""
        return [prediction]
