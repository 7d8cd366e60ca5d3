"""Comparing answers of this runtime with those of transformers."""

import warnings
from typing import Any

import numpy as np
import transformers

from tests.runtime.bundles import CORPUS, Bundle

# The tolerance of the fp32 recipe. Logits here reach 30, where two fp32 implementations differ by some 1e-5.
TOLERANCE = 1e-4

TEXTS = (
    *CORPUS,
    "",
    " ",
    "\n\t \r\n",
    "a",
    "  two leading, two trailing  ",
    "don't  stop -- I'll   go",
    "<mask>",
    "Paris is <mask> and <mask>.",
    "</s>",
    "<s></s><pad><s>",
    "an <unk> word, glued<unk>together",
    "👩‍👩‍👧‍👦 family 🇫🇷",
    "é and é: composed or not",
    "שלום עולם مرحبا",
    "東京は日本の首都です。",
    "nul \0 inside",
    "\u200bzero\u2060width\ufeff",
    "London LONDON london",
)
LONG_TEXT = " ".join(CORPUS * 4)


def reference(bundle: Bundle, task: str) -> Any:
    """Return transformers' pipeline on the model and tokenizer that `bundle` was made of."""
    make: Any = transformers.pipeline
    hf_pipeline = make(task, model=bundle.model, tokenizer=bundle.tokenizer, device="cpu")

    def call(*args: Any, **kwargs: Any) -> Any:
        with warnings.catch_warnings():
            # A warning that byte-level tokens are no words, as for every RoBERTa. The heuristic is what is compared.
            warnings.filterwarnings("ignore", message="Tokenizer does not support real words")
            # A warning that transformers 4.57 converts tensors by an interface of numpy 1.
            warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
            return hf_pipeline(*args, **kwargs)

    return call


def assert_same(ours: Any, theirs: Any) -> None:
    """Check that both are the same lists and dicts of the same values, floats within TOLERANCE, ours plain Python."""
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key, value in theirs.items():
            assert_same(ours[key], value)
    elif isinstance(theirs, list | tuple):
        assert type(ours) is type(theirs)
        assert len(ours) == len(theirs), (ours, theirs)
        for our, their in zip(ours, theirs, strict=True):
            assert_same(our, their)
    elif isinstance(theirs, float | np.floating):
        assert type(ours) is float
        assert abs(ours - float(theirs)) <= TOLERANCE, (ours, theirs)
    else:
        assert type(ours) is type(theirs)
        assert ours == theirs
