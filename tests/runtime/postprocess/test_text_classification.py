from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rpln_runtime import InputError, ManifestError, pipeline
from rpln_runtime.facts import TRUNCATION_SIDES
from rpln_runtime.postprocess.text_classification import sigmoid
from rpln_runtime.tokenization import Tokenizer
from tests.runtime.bundles import CORPUS, Bundle, copy_bundle
from tests.runtime.comparison import LONG_TEXT, TEXTS, assert_same, reference

TASK = "text-classification"


@pytest.fixture(scope="module")
def bundle(bundle_of: Callable[..., Bundle]) -> Bundle:
    return bundle_of(TASK)


@pytest.mark.parametrize("options", [{}, {"top_k": 1}, {"top_k": 3}, {"top_k": None}, {"top_k": 99}], ids=str)
@pytest.mark.parametrize("function", [None, "softmax", "sigmoid", "none"])
def test_equals_transformers(bundle: Bundle, options: dict[str, Any], function: str | None) -> None:
    if function is not None:
        options = options | {"function_to_apply": function}
    classify, hf_classify = pipeline(bundle.folder, **options), reference(bundle, TASK)
    assert_same(classify(list(TEXTS)), hf_classify(list(TEXTS), **options))
    assert_same(classify(CORPUS[0]), hf_classify(CORPUS[0], **options))


def test_pairs_equal_transformers(bundle: Bundle) -> None:
    texts = [
        text for text in TEXTS if text
    ]  # transformers 4.57 takes an empty second text for none, 5 and this runtime do not
    pairs = [{"text": first, "text_pair": second} for first, second in zip(texts, reversed(texts), strict=True)]
    classify, hf_classify = pipeline(bundle.folder, top_k=None), reference(bundle, TASK)
    assert_same(classify(pairs), hf_classify(pairs, top_k=None))
    assert_same(classify(pairs[0]), hf_classify(pairs[0], top_k=None))
    assert classify(text="a", text_pair="b") == classify({"text": "a", "text_pair": "b"})
    assert classify({"text": "a"}) == classify("a")


@pytest.mark.parametrize("labels", [1, 6])
@pytest.mark.parametrize(
    "problem_type", [None, "regression", "single_label_classification", "multi_label_classification"]
)
def test_the_problem_type_chooses_the_function(
    bundle_of: Callable[..., Bundle],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    problem_type: str | None,
    labels: int,
) -> None:
    bundle = bundle_of(TASK) if labels > 1 else bundle_of(TASK, labels=("only",))
    folder = copy_bundle(bundle, tmp_path, problem_type=problem_type)
    monkeypatch.setattr(bundle.model.config, "problem_type", problem_type)
    ours = pipeline(folder, top_k=None)(list(CORPUS))
    assert_same(ours, reference(bundle, TASK)(list(CORPUS), top_k=None))


@pytest.mark.parametrize("side", TRUNCATION_SIDES)
@pytest.mark.parametrize("pair", [None, "short", LONG_TEXT], ids=["single", "short pair", "long pair"])
def test_truncation_equals_transformers(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: str | None, side: str
) -> None:
    monkeypatch.setattr(bundle.tokenizer, "truncation_side", side)
    item = {"text": LONG_TEXT} if pair is None else {"text": LONG_TEXT, "text_pair": pair}
    ours = pipeline(copy_bundle(bundle, tmp_path, truncation_side=side), top_k=None, truncation=True)(item)
    assert_same(ours, reference(bundle, TASK)(item, top_k=None, truncation=True))


def test_too_long_a_text_is_refused(bundle: Bundle) -> None:
    length = len(bundle.tokenizer(LONG_TEXT, verbose=False)["input_ids"])
    with pytest.raises(InputError, match=rf"{length} tokens.* 64: .*truncation=True"):
        pipeline(bundle.folder)(["short", LONG_TEXT])


def test_far_too_long_a_text_is_refused_before_it_is_tokenized(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    classify = pipeline(bundle.folder)
    monkeypatch.setattr(Tokenizer, "encode", lambda *_: pytest.fail("the text is tokenized"))
    for item in ("a" * 10_000_000, {"text": "short", "text_pair": "a" * 10_000_000}):
        with pytest.raises(InputError, match=r"\d+ tokens or more.* 64: .*truncation=True"):
            classify(item)


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"top_k": 0}, "top_k is 0.* 1 or more"),
        ({"top_k": "all"}, "top_k is 'all'.* 'best'"),
        ({"function_to_apply": "max"}, "function_to_apply is 'max'.* 'softmax', 'sigmoid', 'none'"),
        ({"batch_size": True}, "batch_size is True.* 1 or more"),
        ({"batch_size": 0}, "batch_size is 0.* 1 or more"),
    ],
)
def test_wrong_options_are_refused(bundle: Bundle, options: dict[str, Any], facts: str) -> None:
    with pytest.raises(InputError, match=facts):
        pipeline(bundle.folder, **options)


@pytest.mark.parametrize(
    ("inputs", "facts"),
    [
        (7, "the input is of type int"),
        ([7], r"^an item is of type int, expected a text or a mapping with 'text', 'text_pair' \(optional\)"),
        (["a", None], r"^inputs\[1\]: an item is None, expected a text or"),
        (["a", "b", float("nan")], r"^inputs\[2\]: an item is nan \(a float"),
        (["\ud800"], "Unicode at character 0 .*surrogates not allowed"),
        ({"text": 7}, "text .*int.* str"),
        ({"text_pair": "b"}, "keys 'text_pair', .* 'text', 'text_pair' "),
        ({"text": "a", "pair": "b"}, "keys 'text', 'pair', .* 'text', 'text_pair'"),
        (None, "the input is None"),
    ],
)
def test_wrong_inputs_are_refused(bundle: Bundle, inputs: Any, facts: str) -> None:
    with pytest.raises(InputError, match=facts):
        pipeline(bundle.folder)(inputs)


def test_a_batch_size_of_a_call_is_checked(bundle: Bundle) -> None:
    with pytest.raises(InputError, match=r"batch_size is 0.* 1 or more"):
        pipeline(bundle.folder)("text", batch_size=0)


def test_a_task_that_is_not_the_graphs_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"contradicts itself: .*'logits'"):
        pipeline(copy_bundle(bundle, tmp_path / "decoder", task="text-generation"))
    with pytest.raises(ManifestError, match=r"'ranking'.* feature-extraction,"):
        pipeline(copy_bundle(bundle, tmp_path / "newer", task="ranking"))


def test_sigmoid_is_exact_and_takes_any_logit() -> None:
    logits = np.array([-1e4, -20.0, -0.5, 0.0, 3.0, 1e4])
    assert sigmoid(logits)[0] == 0
    assert sigmoid(logits)[-1] == 1
    assert np.allclose(sigmoid(logits[1:-1]), 1 / (1 + np.exp(-logits[1:-1])), rtol=1e-7)
