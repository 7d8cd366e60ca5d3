"""Feature extraction: the last hidden state of a text, or one vector made of it.

Without pooling the result is the array that transformers' FeatureExtractionPipeline gives with return_tensors=True.

Shapes: S sequence, H hidden size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from rpln_runtime.options import check_choice
from rpln_runtime.postprocess.base import FinishedItem, FinishedRow, Postprocess
from rpln_runtime.tokenization import Encoding

_SMALLEST_NORM: Final = 1e-12  # that of torch.nn.functional.normalize
_POOLINGS: Final[dict[str, Callable[[np.ndarray], np.ndarray]]] = {
    "none": lambda hidden_SH: hidden_SH[np.newaxis],
    "first": lambda hidden_SH: hidden_SH[0],
    "mean": lambda hidden_SH: hidden_SH.mean(axis=0),
    "max": lambda hidden_SH: hidden_SH.max(axis=0),
}


@dataclass(frozen=True, kw_only=True)
class FeatureExtraction(Postprocess[np.ndarray]):
    """Options of feature extraction.

    Attributes:
        pooling: "none" gives (1, tokens, hidden); "first" token, "mean" and "max" over the tokens, special ones
            included, give (hidden).
        normalize: whether vectors are divided by their length.
        truncation: whether a text that is too long is cut.
    """

    pooling: str = "none"
    normalize: bool = False
    truncation: bool = False

    def __post_init__(self) -> None:
        check_choice("pooling", self.pooling, tuple(_POOLINGS))

    def encode(self, item: Any) -> list[Encoding]:
        """Encode a text."""
        return [self.fit(self.tokenizer.encode(item), truncation=self.truncation)]

    def score(self, row: FinishedRow) -> np.ndarray:
        """Return the features, fp32."""
        features = np.array(_POOLINGS[self.pooling](row.outputs["last_hidden_state"]))
        if self.normalize:
            features /= np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), _SMALLEST_NORM)
        return features

    def answer(self, case: FinishedItem[np.ndarray]) -> np.ndarray:
        """Return the features of the text."""
        (features,) = case.scores
        return features
