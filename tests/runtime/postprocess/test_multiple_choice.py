from collections.abc import Callable
from typing import Any

import pytest
import torch

from rpln_runtime import InputError, pipeline
from tests.runtime.bundles import Bundle
from tests.runtime.comparison import LONG_TEXT, assert_same

TASK = "multiple-choice"
ITEMS: list[dict[str, Any]] = [
    {"prompt": "Ada lived in", "choices": ["London.", "a small red house near the capital of Norway", "😀"]},
    {"prompt": "", "choices": ["", "only these two"]},
    {"prompt": "東京", "choices": ["alone"]},
    {"prompt": "The capital of France", "choices": ["is Paris", "is Oslo", "is <mask>", "</s>", "naïve", " "]},
]


@pytest.fixture(scope="module")
def bundle(bundle_of: Callable[..., Bundle]) -> Bundle:
    return bundle_of(TASK)


def expected(bundle: Bundle, item: dict[str, Any], *, truncation: bool = False) -> dict[str, Any]:
    """Return what transformers' model gives for pairs of prompt and choice, as its documentation computes it."""
    choices = item["choices"]
    batch = bundle.tokenizer(
        [item["prompt"]] * len(choices), choices, return_tensors="pt", padding=True, truncation=truncation
    )
    with torch.no_grad():
        logits = bundle.model(**{name: tensor.unsqueeze(0) for name, tensor in batch.items()}).logits
    scores = logits[0].softmax(-1)
    best = int(scores.argmax())
    return {"answer": choices[best], "index": best, "score": float(scores[best]), "scores": scores.tolist()}


def test_equals_transformers(bundle: Bundle) -> None:
    choose = pipeline(bundle.folder, batch_size=5)
    assert_same(choose(ITEMS), [expected(bundle, item) for item in ITEMS])
    assert_same(choose(**ITEMS[0]), expected(bundle, ITEMS[0]))
    assert len({answer["index"] for answer in choose(ITEMS)}) > 1


def test_truncation_equals_transformers(bundle: Bundle) -> None:
    item = {"prompt": LONG_TEXT, "choices": ["short", LONG_TEXT]}
    assert_same(pipeline(bundle.folder, truncation=True)(item), expected(bundle, item, truncation=True))


@pytest.mark.parametrize(
    ("item", "facts"),
    [
        ({"prompt": "p", "choices": []}, r"choices .*\[\].* list"),
        ({"prompt": "p", "choices": "ab"}, "choices .*'ab'.* list"),
        ({"prompt": "p", "choices": [1]}, "text .*int.* str"),
        ({"prompt": "p"}, "keys 'prompt', .* 'prompt', 'choices'"),
        ({"prompt": LONG_TEXT, "choices": ["a"]}, "216 tokens.* 64: .*truncation=True"),
    ],
)
def test_wrong_items_are_refused(bundle: Bundle, item: Any, facts: str) -> None:
    with pytest.raises(InputError, match=facts):
        pipeline(bundle.folder)(item)
