"""Token classification: a label for each word, or the entities that words form.

The label of a word is that of its first token. Long texts are read in windows that overlap, as by the pipeline.
"""

from collections.abc import Hashable, Sequence
from typing import ClassVar

import numpy as np

from rpln_export.evaluation.measures.base import LABELS, TEXTS, DataField, Example, Fields, Measure, Metric
from rpln_export.evaluation.metrics import accuracy, entity_scores, macro_f1
from rpln_export.evaluation.rows import Outputs, Row
from rpln_runtime.errors import InputError
from rpln_runtime.manifest import Manifest
from rpln_runtime.postprocess.token_classification import TokenClassification, merge_windows
from rpln_runtime.tokenization import Encoding

_FIELDS = (
    DataField(name="words", kind=TEXTS),
    DataField(name="labels", kind=LABELS),
    DataField(name="text", optional=True),
)
_ENTITY_PREFIXES = ("B-", "I-", "E-", "S-")


class WordLabels(Measure[np.ndarray, list[int]]):
    """A label for each word. A prediction is the index of each word's label."""

    fields: ClassVar = _FIELDS
    metrics: ClassVar[tuple[Metric, ...]] = (Metric(name="accuracy"), Metric(name="macro_f1"))

    @classmethod
    def fits(cls, manifest: Manifest) -> bool:
        """Return whether labels stand for themselves."""
        return not has_entities(manifest.labels)

    def check(self, fields: Fields) -> None:
        """Raise InputError for an example that is wrong, an unknown label, and a word that is not in its text."""
        super().check(fields)
        words, labels = fields["words"], fields["labels"]
        if not words:
            raise InputError("its 'words' is empty, expected at least one word")
        if len(words) != len(labels):
            raise InputError(f"it has {len(words)} 'words' and {len(labels)} 'labels', expected a label for each word")
        for place, label in enumerate(labels):
            self.label_index(label, f"'labels'[{place}]")
        starts_of_words(fields)

    def rows(self, fields: Fields) -> list[Row]:
        """Return the tokens of each window over the text.

        Raises InputError for a word without a token.
        """
        windows = TokenClassification(manifest=self.manifest, tokenizer=self.tokenizer).encode(text_of_words(fields))
        whole, _ = merge_windows(windows, [np.zeros((len(window), 1)) for window in windows])
        first_tokens(whole, fields)
        return [Row(encoding=window) for window in windows]

    def read(self, row: Row, outputs: Outputs) -> np.ndarray:  # noqa: ARG002 # every measure has it
        """Return the logits, (tokens, labels)."""
        return outputs["logits"].copy()

    def predictions(self, examples: Sequence[Example[np.ndarray]]) -> list[list[int]]:
        """Return the index of the label of each word."""
        found = []
        for example in examples:
            whole, logits = merge_windows([row.encoding for row in example.rows], example.kept)
            found.append(logits[first_tokens(whole, example.fields)].argmax(axis=-1).tolist())
        return found

    def scores(self, fields: Sequence[Fields], predictions: Sequence[list[int]]) -> dict[str, float]:
        """Return the share of words with the right label, and the mean of the labels' F1."""
        right = [label for labels in self._right(fields) for label in labels]
        found = [label for labels in predictions for label in labels]
        return {"accuracy": accuracy(right, found), "macro_f1": macro_f1(right, found)}

    def decisions(self, prediction: list[int]) -> Sequence[Hashable]:
        """Return the label of each word."""
        return prediction

    def _right(self, fields: Sequence[Fields]) -> list[list[int]]:
        """Return the indices of the words' labels in the data."""
        return [[self.label_index(label, "'labels'") for label in one["labels"]] for one in fields]


class Entities(WordLabels):
    """Entities, whose words have labels such as B-PLACE and I-PLACE, and other words O."""

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="entity_f1"),
        Metric(name="entity_precision"),
        Metric(name="entity_recall"),
        Metric(name="accuracy"),
    )

    @classmethod
    def fits(cls, manifest: Manifest) -> bool:
        """Return whether labels are those of parts of entities."""
        return has_entities(manifest.labels)

    def scores(self, fields: Sequence[Fields], predictions: Sequence[list[int]]) -> dict[str, float]:
        """Return F1, precision and recall of whole entities, and the share of words with the right label."""
        names = self.manifest.labels
        right, found = (
            [[names[label] for label in row] for row in rows] for rows in (self._right(fields), predictions)
        )
        words = super().scores(fields, predictions)
        return {**entity_scores(right, found), "accuracy": words["accuracy"]}


def has_entities(labels: Sequence[str]) -> bool:
    """Return whether all `labels` but O begin with B-, I-, E- or S-, and some do."""
    others = [label for label in labels if label != "O"]
    return bool(others) and all(label.startswith(_ENTITY_PREFIXES) for label in others)


def text_of_words(fields: Fields) -> str:
    """Return the text in which the words stand: the one that is given, or the words with spaces between them."""
    return str(fields["text"]) if "text" in fields else " ".join(fields["words"])


def starts_of_words(fields: Fields) -> list[int]:
    """Return the first character of each word in its text. Raises InputError for a word that is not there."""
    text, end, starts = text_of_words(fields), 0, []
    for place, word in enumerate(fields["words"]):
        start = text.find(word, end)
        if not word or start < 0:
            why = "is not in 'text' behind the words before it" if word else "is empty"
            raise InputError(f"its 'words'[{place}], {word!r}, {why}")
        starts.append(start)
        end = start + len(word)
    return starts


def first_tokens(encoding: Encoding, fields: Fields) -> np.ndarray:
    """Return the index in `encoding` of the first token of each word. Raises InputError for a word without a token."""
    inside = np.flatnonzero(encoding.sequences == 0)
    offsets = encoding.offsets[inside]
    found = []
    for place, (word, start) in enumerate(zip(fields["words"], starts_of_words(fields), strict=True)):
        # The first token that ends behind the word's start; it may begin with the space before the word.
        candidate = int(np.searchsorted(offsets[:, 1], start, side="right"))
        if candidate == len(inside) or offsets[candidate, 0] >= start + len(word):
            raise InputError(f"its 'words'[{place}], {word!r}, has no token")
        found.append(inside[candidate])
    return np.array(found)
