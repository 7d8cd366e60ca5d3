"""Decoders whose weights are in blocks: they write nearly the texts of fp32, from files that are smaller."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from rpln_runtime import generator, load
from rpln_runtime.manifest import read_manifest
from tests.embedded import embedded_bundle

Embedded = Callable[..., Path]

PROMPTS = ["The old man walked to the", "In the city of Atlanta, the mayor", "She said that"]
FORMS = [
    ("int8-weight-only", "weights-8"),
    ("int8-weight-only", "weights-8-fused"),
    ("int4", "weights-4"),
    ("int4", "weights-4-fused"),
]


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Embedded:
    return partial(embedded_bundle, tmp_path_factory)


def texts(folder: Path, prompts: list[str], new: int = 12) -> list[str]:
    """Return what a bundle writes, so many tokens after each prompt."""
    answers = generator(folder, provider="cpu", threads=1, max_new_tokens=new)(prompts)
    return [answer[0]["generated_text"] for answer in answers]


@pytest.mark.parametrize(("precision", "form"), FORMS[:2])
def test_the_next_word_is_nearly_always_that_of_fp32(embedded: Embedded, precision: str, form: str) -> None:
    plain, quantized = embedded("text-generation"), embedded("text-generation", precision=precision, optimize=form)
    # Of whole texts, all words behind the first other one would be others.
    words = [text.split() for text in texts(plain, PROMPTS)]
    beginnings = [" ".join(text[:count]) for text in words for count in range(3, len(text) + 1)]
    equal = [
        one == other for one, other in zip(texts(plain, beginnings, 1), texts(quantized, beginnings, 1), strict=True)
    ]

    assert len(equal) > 30
    assert np.mean(equal) >= 0.9


@pytest.mark.parametrize(
    ("precision", "choices"),
    [
        *((precision, {"optimize": form}) for precision, form in FORMS),
        *((precision, {"target": "tensorrt"}) for precision in ("int8", "int4")),
    ],
)
def test_logits_are_near_those_of_fp32_but_not_the_same(
    embedded: Embedded, precision: str, choices: dict[str, str]
) -> None:
    sessions = [
        load(path, provider="cpu", threads=1, variant=read_manifest(path).graphs[0].variant)
        for path in (embedded("text-generation"), embedded("text-generation", precision=precision, **choices))
    ]
    ids = np.arange(5, 29).reshape(1, -1)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(2, 26).reshape(1, -1)}
    past = {
        spec.name: np.zeros([1, int(spec.shape[1]), 0, int(spec.shape[3])], dtype=np.float32)
        for spec in sessions[0].graph.inputs
        if spec.name.startswith("past_key_values")
    }
    expected, found = (
        session.run({spec.name: (feeds | past)[spec.name] for spec in session.graph.inputs}, outputs=["logits"])
        for session in sessions
    )
    difference = np.abs(found["logits"] - expected["logits"]).max() / np.abs(expected["logits"]).max()

    assert 1e-4 < difference < (0.02 if precision.startswith("int8") else 0.15)


def test_weights_are_stored_in_standard_operators_and_few_bytes(embedded: Embedded) -> None:
    sizes = []
    for precision, form, kind in (
        ("int8-weight-only", "weights-8", onnx.TensorProto.INT8),
        ("int4", "weights-4", onnx.TensorProto.INT4),
    ):
        folder = embedded("text-generation", precision=precision, optimize=form)
        graph = onnx.load(folder / "model.onnx")
        onnx.checker.check_model(graph)
        assert {node.domain for node in graph.graph.node} == {""}
        assert (
            sum(weight.data_type == kind for weight in graph.graph.initializer) == 6 * 4
        )  # the products of four layers
        assert read_manifest(folder).recipe == precision
        sizes.append((folder / "model.onnx").stat().st_size)

    plain = (embedded("text-generation") / "model.onnx").stat().st_size
    assert plain > sizes[0] > sizes[1]


@pytest.mark.parametrize(
    ("precision", "kind", "scales"),
    [("int8", onnx.TensorProto.INT8, 1), ("int4", onnx.TensorProto.INT4, 2)],
)
def test_graphs_for_tensorrt_share_weights_with_scales_in_fp16(
    embedded: Embedded, precision: str, kind: int, scales: int
) -> None:
    folder = embedded("text-generation", precision=precision, target="tensorrt")
    manifest = read_manifest(folder)
    assert [graph.variant for graph in manifest.graphs] == ["prefill", "decode"]
    assert (manifest.precision, manifest.target) == ("float16", "tensorrt")
    places = []
    for path in sorted(folder.glob("*.onnx")):
        graph = onnx.load(path, load_external_data=False).graph
        onnx.checker.check_model(path)
        stored = {one.name: one for one in graph.initializer}
        widened = [node for node in graph.node if node.op_type == "DequantizeLinear"]
        assert len(widened) == 6 * 4  # the products of four layers
        for node in widened:
            weight, scale = (stored[name] for name in node.input)
            assert (weight.data_type, scale.data_type, len(scale.dims)) == (kind, onnx.TensorProto.FLOAT16, scales)
        places.append({name: str(stored[name].external_data) for node in widened for name in node.input})
    assert places[0] == places[1]  # the two graphs read the same bytes


@pytest.mark.parametrize(
    ("task", "choices"),
    [
        ("text-generation", {"optimize": "weights-4"}),
        ("text2text-generation", {"optimize": "weights-4"}),
        ("text-generation", {"target": "tensorrt"}),
        ("text2text-generation", {"target": "tensorrt"}),
    ],
)
def test_weights_of_4_bits_are_rounded_for_their_inputs(embedded: Embedded, task: str, choices: dict[str, str]) -> None:
    folder = embedded(task, precision="int4", **choices)
    quantization = json.loads((folder / "report.json").read_text(encoding="utf-8"))["quantization"]
    (form,) = quantization["forms"]
    rms = {row["way"]: row["rms"] for row in form["tried"]}

    assert (quantization["measured"], quantization["held_back"]) == (48, 16)
    assert form["curve"][-1]["way"] == "error-aware"
    assert rms["error-aware"] < 0.75 * rms["nearest"]


def test_an_encoder_and_its_decoder_are_quantized_together(embedded: Embedded) -> None:
    folder = embedded("text2text-generation", precision="int4", optimize="weights-4")
    prompts = ["the old man walked to the boat in atlanta"]

    assert texts(folder, prompts) == texts(embedded("text2text-generation"), prompts)
    for path in sorted(folder.glob("*.onnx")):
        weights = onnx.load(path).graph.initializer
        assert any(weight.data_type == onnx.TensorProto.INT4 for weight in weights), path.name
