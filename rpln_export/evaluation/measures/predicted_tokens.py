"""Predicted tokens: the base of the measures of networks that predict tokens, by their probabilities.

Shapes: N predictions, V vocabulary.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from rpln_export.evaluation.measures.base import Example, Measure
from rpln_export.evaluation.rows import UNCOUNTED, Outputs, Row


@dataclass(frozen=True, slots=True)
class Predicted:
    """Predictions of tokens.

    Attributes:
        tokens: the likeliest token of each prediction that counts, (N).
        targets: the right tokens, (N).
        nats: the sum of -ln P of the right tokens.
    """

    tokens: np.ndarray
    targets: np.ndarray
    nats: float


class PredictedTokens(Measure[Predicted, Predicted]):
    """A measure of predicted tokens."""

    def predictions(self, examples: Sequence[Example[Predicted]]) -> list[Predicted]:
        """Return the predictions of all rows of each example, together."""
        return [
            Predicted(
                np.concatenate([row.tokens for row in example.kept]),
                np.concatenate([row.targets for row in example.kept]),
                sum(row.nats for row in example.kept),
            )
            for example in examples
        ]

    def read(self, row: Row, outputs: Outputs) -> Predicted:
        """Return the predictions of a row, whose logits have a place for each of its targets."""
        return predicted_from_logits(outputs["logits"], row.targets)

    def decisions(self, prediction: Predicted) -> Sequence[Hashable]:
        """Return the likeliest tokens."""
        return [int(token) for token in prediction.tokens]


def predicted_from_logits(logits_NV: np.ndarray, targets_N: np.ndarray) -> Predicted:
    """Return the predictions that count among those of `logits_NV`. Probabilities are computed in fp64."""
    counted = targets_N != UNCOUNTED
    logits_NV, targets_N = logits_NV[counted], targets_N[counted]
    largest_N1 = logits_NV.max(axis=-1, keepdims=True)
    sums_N = np.exp((logits_NV - largest_N1).astype(np.float64)).sum(axis=-1)
    right_N = np.take_along_axis(logits_NV, targets_N[:, None], axis=-1).astype(np.float64)
    nats_N = np.log(sums_N) - (right_N - largest_N1)[:, 0]
    return Predicted(logits_NV.argmax(axis=-1), targets_N, float(nats_N.sum()))
