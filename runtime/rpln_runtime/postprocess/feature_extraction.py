"""Feature extraction: the last hidden states of a text, or one vector that is made of them.

Without pooling, the answer is the array that transformers' FeatureExtractionPipeline returns with return_tensors=True.
If the graph pools, the answer is the vector that `encode` of sentence-transformers returns, with the prompts and the
truncation of the checkpoint.

Shapes: S sequence, H hidden size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from rpln_runtime.errors import InputError
from rpln_runtime.manifest import Sentences
from rpln_runtime.options import check_boolean, check_choice
from rpln_runtime.postprocess.base import FinishedItem, FinishedRow, Postprocess
from rpln_runtime.tasks import SENTENCE_EMBEDDING
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

_PLAIN: Final = Sentences(poolings=(), max_length=None, prompts={}, default_prompt=None)
"""How texts become vectors where neither the checkpoint nor the user said so."""


@dataclass(frozen=True, kw_only=True)
class FeatureExtraction(Postprocess[np.ndarray]):
    """Feature extraction and its options.

    Attributes:
        pooling: "none" gives all hidden states, (1, tokens, hidden size). "first" gives that of the first token, and
            "mean" and "max" combine those of all tokens, special tokens included, to one vector, (hidden size). None
            means "none", or the vector that the graph gives if it pools, (embedding size); it then takes no other.
        normalize: whether vectors are divided by their length. A graph that pools may have done so already.
        truncation: whether a text that is too long is cut. Otherwise it raises InputError. None means that it is cut
            if the checkpoint is one of sentence-transformers.
        prompt: a text to put before each text. None means the prompt that `prompt_name` names.
        prompt_name: the name of a prompt of the checkpoint. None means its default one, if it has one.
    """

    pooling: str | None = None
    normalize: bool = False
    truncation: bool | None = None
    prompt: str | None = None
    prompt_name: str | None = None

    def __post_init__(self) -> None:
        if self.pooling is not None:
            check_choice("pooling", self.pooling, tuple(_POOLINGS))
            if self._poolings:
                raise InputError(
                    f"pooling is {self.pooling!r}, but the graph of this bundle pools by itself "
                    f"({', '.join(self._poolings)}). Leave it out, or export the checkpoint with --pooling none."
                )
        if self.truncation is not None:
            check_boolean("truncation", self.truncation)
        if self.prompt is not None and not isinstance(self.prompt, str):
            raise InputError(f"prompt is {self.prompt!r}, expected a text.")
        if self.prompt is not None and self.prompt_name is not None:
            raise InputError("prompt and prompt_name both choose what is put before a text. Leave out one of them.")
        if self.prompt_name is not None:
            check_choice("prompt_name", self.prompt_name, tuple(self._sentences.prompts))
        if self._prompt and not self._sentences.include_prompt:
            raise InputError(
                "the checkpoint of this bundle leaves the tokens of a prompt out of its vectors, which the graph "
                "cannot. Give no prompt."
            )

    def encode(self, item: Any) -> Sequence[Encoding]:
        """Return the tokens of the text `item`, behind the prompt."""
        text = self._prompt + item if isinstance(item, str) else item
        longest = self._sentences.max_length
        truncation = longest is not None if self.truncation is None else self.truncation
        return [self.encode_fitting(text, truncation=truncation, max_length=longest)]

    def score(self, row: FinishedRow) -> np.ndarray:
        """Return the features, fp32."""
        if self._poolings:
            features = np.array(row.outputs[SENTENCE_EMBEDDING.name])
        else:
            features = np.array(_POOLINGS[self.pooling or "none"](row.outputs["last_hidden_state"]))
        if self.normalize:
            features /= np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), _SMALLEST_NORM)
        return features

    def answer(self, finished: FinishedItem[np.ndarray]) -> np.ndarray:
        """Return the features of the text."""
        (features,) = finished.scores
        return features

    @property
    def _sentences(self) -> Sentences:
        return self.manifest.sentences or _PLAIN

    @property
    def _poolings(self) -> tuple[str, ...]:
        """The poolings of the graph; empty if it gives hidden states."""
        return self._sentences.poolings

    @property
    def _prompt(self) -> str:
        """The text that is put before each text."""
        if self.prompt is not None:
            return self.prompt
        name = self.prompt_name or self._sentences.default_prompt
        return "" if name is None else self._sentences.prompts[name]
