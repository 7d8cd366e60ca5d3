"""Feature extraction: the last hidden states of a text, or one vector that is made of them.

Without pooling, the answer is the array that transformers' FeatureExtractionPipeline returns with return_tensors=True.

Shapes: S sequence, H hidden size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from rpln_runtime.options import check_choice
from rpln_runtime.postprocess.base import FinishedItem, FinishedRow, Postprocess
from rpln_runtime.tokenization import Encoding

_SMALLEST_NORM: Final = 1e-12
"""The least length that a vector is divided by, as in torch.nn.functional.normalize."""
_POOLINGS: Final[dict[str, Callable[[np.ndarray], np.ndarray]]] = {
    "none": lambda hidden_SH: hidden_SH[np.newaxis],
    "first": lambda hidden_SH: hidden_SH[0],
    "mean": lambda hidden_SH: hidden_SH.mean(axis=0),
    "max": lambda hidden_SH: hidden_SH.max(axis=0),
}
"""The functions that pool hidden states, (S, H), by name."""


@dataclass(frozen=True, kw_only=True)
class FeatureExtraction(Postprocess[np.ndarray]):
    """Feature extraction and its options.

    Attributes:
        pooling: "none" gives all hidden states, (1, tokens, hidden size). "first" gives that of the first token, and
            "mean" and "max" combine those of all tokens, special tokens included, to one vector, (hidden size).
        normalize: whether vectors are divided by their length.
        truncation: whether a text that is too long is cut. Otherwise it raises InputError.
    """

    pooling: str = "none"
    normalize: bool = False
    truncation: bool = False

    def __post_init__(self) -> None:
        check_choice("pooling", self.pooling, tuple(_POOLINGS))

    def encode(self, item: Any) -> list[Encoding]:
        """Return the tokens of the text `item`."""
        return [self.fit(self.tokenizer.encode(item), truncation=self.truncation)]

    def score(self, row: FinishedRow) -> np.ndarray:
        """Return the features, fp32."""
        features = np.array(_POOLINGS[self.pooling](row.outputs["last_hidden_state"]))
        if self.normalize:
            features /= np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), _SMALLEST_NORM)
        return features

    def answer(self, finished: FinishedItem[np.ndarray]) -> np.ndarray:
        """Return the features of the text."""
        (features,) = finished.scores
        return features
