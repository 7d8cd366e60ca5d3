"""Feature extraction: vectors of texts, compared by their cosines.

The vector of a text is the one that the graph gives, or the mean of all tokens' hidden states. A default prompt of the
checkpoint is put before each text.
"""

from collections.abc import Hashable, Sequence
from typing import ClassVar, Final

import numpy as np

from rpln_export.evaluation.measures.base import NUMBER, DataField, Example, Fields, Measure, Metric
from rpln_export.evaluation.metrics import spearman
from rpln_export.evaluation.rows import Outputs, Row
from rpln_runtime.postprocess.base import FinishedRow
from rpln_runtime.postprocess.feature_extraction import FeatureExtraction

_SMALLEST_NORM: Final = 1e-12


class _Pairs(Measure[np.ndarray, np.ndarray]):
    """A measure of pairs of texts, which `texts` names. A prediction is their vectors, each of length 1, (2, size)."""

    texts: ClassVar[tuple[str, str]]

    def rows(self, fields: Fields) -> list[Row]:
        """Return the tokens of both texts."""
        postprocess = self._postprocess()
        if not self._cuts:
            for name in self.texts:
                self.cut(self.tokenizer.encode(fields[name]), repr(name))
        return [Row(encoding=encoding) for name in self.texts for encoding in postprocess.encode(fields[name])]

    def read(self, row: Row, outputs: Outputs) -> np.ndarray:
        """Return the vector of a text."""
        return self._postprocess().score(FinishedRow(row.encoding, outputs))

    def predictions(self, examples: Sequence[Example[np.ndarray]]) -> list[np.ndarray]:
        """Return the vectors of both texts."""
        pairs = [np.stack(example.kept) for example in examples]
        return [pair / np.maximum(np.linalg.norm(pair, axis=-1, keepdims=True), _SMALLEST_NORM) for pair in pairs]

    def decisions(self, prediction: np.ndarray) -> Sequence[Hashable]:  # noqa: ARG002 # every measure has it
        """Return nothing: a vector is no decision."""
        return ()

    @property
    def _cuts(self) -> bool:
        """Whether the checkpoint says how long texts are, so that longer ones are cut."""
        return self.manifest.sentences is not None and self.manifest.sentences.max_length is not None

    def _postprocess(self) -> FeatureExtraction:
        pools = bool(self.manifest.sentences and self.manifest.sentences.poolings)
        return FeatureExtraction(
            manifest=self.manifest,
            tokenizer=self.tokenizer,
            pooling=None if pools else "mean",
            truncation=self.truncation or None,
        )


class Similarity(_Pairs):
    """Pairs of texts, and how similar they are."""

    texts: ClassVar = ("text1", "text2")
    fields: ClassVar = (DataField(name="text1"), DataField(name="text2"), DataField(name="score", kind=NUMBER))
    metrics: ClassVar = (Metric(name="spearman"),)

    def scores(self, fields: Sequence[Fields], predictions: Sequence[np.ndarray]) -> dict[str, float]:
        """Return the correlation of the ranks of the cosines with those of the scores."""
        cosines = [float(first @ second) for first, second in predictions]
        return {"spearman": spearman([one["score"] for one in fields], cosines)}


class Retrieval(_Pairs):
    """Queries, each with the text that it should find among those of all examples."""

    texts: ClassVar = ("query", "positive")
    fields: ClassVar = (DataField(name="query"), DataField(name="positive"))
    metrics: ClassVar = (Metric(name="retrieval_accuracy"),)

    def scores(self, fields: Sequence[Fields], predictions: Sequence[np.ndarray]) -> dict[str, float]:
        """Return the share of queries to whose vector that of their own text is nearest."""
        vectors = np.stack(predictions)
        nearest = (vectors[:, 0] @ vectors[:, 1].T).argmax(axis=1)
        right = [fields[place]["positive"] == one["positive"] for place, one in zip(nearest, fields, strict=True)]
        return {"retrieval_accuracy": float(np.mean(right))}
