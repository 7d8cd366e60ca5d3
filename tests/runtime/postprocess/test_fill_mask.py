import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rpln_runtime import InputError, ManifestError, load, pipeline
from rpln_runtime.manifest import Axis, TensorSpec, write_manifest
from rpln_runtime.postprocess.fill_mask import best_tokens
from tests.runtime.bundles import USABLE_LENGTH, Bundle, copy_bundle
from tests.runtime.comparison import LONG_TEXT, assert_same, reference

TASK = "fill-mask"
MASKED = (
    "The capital of France is <mask>.",
    "<mask>",
    "<mask> lived in London",
    "Paris<mask> 😀 東京",
    "<s> specials </s> around <mask><pad>",
    "Ada <mask> lived in <mask>.",
    "<mask><mask> <mask>",
)


@pytest.fixture(scope="module")
def bundle(bundle_of: Callable[..., Bundle]) -> Bundle:
    return bundle_of(TASK)


def at_masks(bundle: Bundle, parent: Path) -> Path:
    """Return a copy of `bundle` whose graph gives only the logits of mask tokens."""
    mask = onnx.helper.make_tensor("mask", onnx.TensorProto.INT64, [], [bundle.manifest.mask_token_id or 0])
    nodes = [
        onnx.helper.make_node("Constant", [], ["mask"], value=mask),
        onnx.helper.make_node("Equal", ["input_ids", "mask"], ["masked"]),
        onnx.helper.make_node("NonZero", ["masked"], ["places"]),
        onnx.helper.make_node("Transpose", ["places"], ["pairs"], perm=[1, 0]),
        onnx.helper.make_node("GatherND", ["every", "pairs"], ["logits"]),
    ]
    return picking(bundle, parent, nodes, axes=("masked_tokens",))


def at_positions(bundle: Bundle, parent: Path) -> Path:
    """Return a copy of `bundle` whose graph gives only the logits at its input masked_positions."""
    axes = ("batch", "masks")
    last = onnx.helper.make_tensor("last", onnx.TensorProto.INT64, [1], [-1])
    nodes = [
        onnx.helper.make_node("Constant", [], ["last"], value=last),
        onnx.helper.make_node("Unsqueeze", ["masked_positions", "last"], ["column"]),
        onnx.helper.make_node("GatherND", ["every", "column"], ["logits"], batch_dims=1),
    ]
    return picking(
        bundle, parent, nodes, axes=axes, given=TensorSpec(name="masked_positions", dtype="int64", shape=axes)
    )


def picking(
    bundle: Bundle, parent: Path, nodes: list[Any], *, axes: tuple[str, ...], given: TensorSpec | None = None
) -> Path:
    """Return a copy of `bundle` in which `nodes` make the output from the former logits, `every`."""
    model = onnx.load(bundle.folder / "model.onnx")
    for node in model.graph.node:
        node.output[:] = ["every" if name == "logits" else name for name in node.output]
    model.graph.node.extend(nodes)
    (spec,) = bundle.manifest.graphs[0].outputs
    inputs = bundle.manifest.graphs[0].inputs
    if given is not None:
        inputs += (given,)
        model.graph.input.append(onnx.helper.make_tensor_value_info(given.name, onnx.TensorProto.INT64, given.shape))
    spec = dataclasses.replace(spec, shape=(*axes, spec.shape[-1]))
    (output,) = model.graph.output
    output.CopyFrom(onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, spec.shape))
    folder = copy_bundle(bundle, parent)
    onnx.save(model, folder / "model.onnx")
    graph = dataclasses.replace(bundle.manifest.graphs[0], inputs=inputs, outputs=(spec,))
    limits = {**bundle.manifest.axes, "masks": Axis(minimum=0, maximum=USABLE_LENGTH)}
    write_manifest(folder, dataclasses.replace(bundle.manifest, graphs=(graph,), axes=limits))
    return folder


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 1},
        {"top_k": 50},
        {"targets": "ĠLondon"},
        {"targets": ["ĠLondon", "a", "ĠParis", "a"], "top_k": 10},
        {"targets": ["<pad>", "</s>", "ĠOslo"]},
    ],
    ids=str,
)
def test_equals_transformers(bundle: Bundle, options: dict[str, Any]) -> None:
    fill, hf_fill = pipeline(bundle.folder, **options), reference(bundle, TASK)
    assert_same(fill(list(MASKED)), hf_fill(list(MASKED), **options))
    for text in MASKED:
        assert_same(fill(text), hf_fill(text, **options))
    # transformers answers a list of one text as if it were that text.
    assert_same(fill([MASKED[0]]), [hf_fill([MASKED[0]], **options)])


def test_a_target_that_is_no_token_stands_for_its_first_one(bundle: Bundle) -> None:
    targets = [" Babbages", "ĠOslo", ""]
    with pytest.warns(UserWarning, match="' Babbages' .*'ĠBa'") as caught:
        ours = pipeline(bundle.folder, targets=targets)(MASKED[0])
    assert len(caught) == 1
    assert_same(ours, reference(bundle, TASK)(MASKED[0], targets=targets))


def test_a_batch_answers_as_its_texts_alone(bundle: Bundle) -> None:
    fill = pipeline(bundle.folder, batch_size=3)
    assert_same(fill(list(MASKED)), [fill(text) for text in MASKED])


@pytest.mark.parametrize("batch_size", [1, 3, 32])
@pytest.mark.parametrize("selected", [at_masks, at_positions])
def test_a_graph_that_gives_the_logits_of_masks_alone_answers_alike(
    bundle: Bundle, tmp_path: Path, selected: Callable[[Bundle, Path], Path], batch_size: int
) -> None:
    fill = pipeline(selected(bundle, tmp_path), batch_size=batch_size)
    every = pipeline(bundle.folder, batch_size=batch_size)
    for options in ({}, {"targets": ["ĠLondon", "ĠParis"]}, {"top_k": 50}):
        assert fill(list(MASKED), **options) == every(list(MASKED), **options)
    assert [fill(text) for text in MASKED] == [every(text) for text in MASKED]


@pytest.mark.parametrize("selected", [at_masks, at_positions])
def test_a_session_takes_texts_without_masks(
    bundle: Bundle, tmp_path: Path, selected: Callable[[Bundle, Path], Path]
) -> None:
    session = load(selected(bundle, tmp_path))
    feeds = {"input_ids": np.full((2, 3), 9), "attention_mask": np.ones((2, 3), np.int64)}
    feeds["masked_positions"] = np.zeros((2, 0), np.int64)
    found = session.run({spec.name: feeds[spec.name] for spec in session.graph.inputs})
    assert found["logits"].size == 0
    assert found["logits"].shape[-1] == bundle.manifest.vocab_size


def test_truncation_equals_transformers(bundle: Bundle) -> None:
    text = f"{MASKED[0]} {LONG_TEXT}"
    hf_answers = reference(bundle, TASK)(text, tokenizer_kwargs={"truncation": True})
    assert_same(pipeline(bundle.folder, truncation=True)(text), hf_answers)


@pytest.mark.parametrize(
    ("text", "options", "facts"),
    [
        ("no mask", {}, "<mask> .* 9 tokens"),
        (f"{LONG_TEXT} <mask>", {"truncation": True}, "<mask> .* 64 tokens"),
        (f"{LONG_TEXT} <mask>", {}, "214 tokens.* 64: .*truncation=True"),
        ("<mask>", {"targets": []}, r"targets is \[\]"),
        ("<mask>", {"targets": [""]}, r"targets is \[''\]"),
        ("<mask>", {"top_k": 0}, "top_k is 0.* 1 or more"),
    ],
)
def test_what_cannot_be_filled_is_refused(bundle: Bundle, text: str, options: dict[str, Any], facts: str) -> None:
    with pytest.raises(InputError, match=facts):
        pipeline(bundle.folder)(text, **options)


def test_a_tokenizer_without_a_mask_is_refused(bundle: Bundle, tmp_path: Any) -> None:
    folder = copy_bundle(bundle, tmp_path, mask_token_id=None)
    with pytest.raises(ManifestError, match="no mask token"):
        pipeline(folder)


@given(
    probabilities=hnp.arrays(np.float32, (2, 12), elements=st.floats(0, 1, width=32)),
    top_k=st.integers(1, 15),
    allowed=st.none() | st.sets(st.integers(0, 11), min_size=1).map(lambda ids: np.array(sorted(ids))),
)
def test_best_tokens_are_the_best(probabilities: np.ndarray, top_k: int, allowed: np.ndarray | None) -> None:
    best = best_tokens(probabilities, top_k=top_k, allowed=allowed)
    ids = range(12) if allowed is None else allowed.tolist()
    for row, chosen, scores in zip(probabilities, best.ids, best.probabilities, strict=True):
        assert scores.tolist() == sorted((row[i] for i in ids), reverse=True)[:top_k]
        assert row[chosen].tolist() == scores.tolist()
        assert len(set(chosen.tolist())) == min(top_k, len(ids))
