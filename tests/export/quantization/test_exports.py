"""Exports in int8, end to end: embedded checkpoints answer as in fp32; what is not accurate is not published."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from rpln_export.cli import export_command, rpln_command
from rpln_export.pipeline import export
from rpln_export.plan.defaults import DEFAULTS
from rpln_export.plan.export_plan import make_plan
from rpln_export.quantization import quantize
from rpln_export.quantization.fidelity import Fidelity, Trial
from rpln_runtime import pipeline
from rpln_runtime.manifest import read_manifest
from tests.embedded import embedded_bundle
from tests.export.conftest import Export, share_traces

Embedded = Callable[..., Path]

MAILS = Path(__file__).parents[1] / "data" / "mails_test_sample.jsonl"
TEXTS = [
    "The old man walked to the boat, and his crew watched the stars.",
    "Free money!!! Click http://example.com now & win 1,000,000 dollars.",
    "Dear colleagues, the meeting of the committee is on Thursday at ten.",
    "I",
    "The jury said it did find that many of the laws are outmoded. " * 5,
]
CONTEXT = "The jury praised the officers of the city. Mr. Berry, whose wife is ill, lives in Atlanta."
ITEMS: dict[str, list[Any]] = {
    "question-answering": [
        {"question": "Who praised the officers?", "context": CONTEXT},
        {"question": "Where does Mr. Berry live?", "context": CONTEXT},
    ],
    "multiple-choice": [
        {"prompt": "The man walked to the boat.", "choices": ["He sailed away.", "The tax was raised."]},
        {"prompt": "It rained.", "choices": ["We got wet.", "The number is even.", "He sold the company."]},
    ],
    "fill-mask": ["The old man <mask> to the boat.", "He lives in the <mask> of Atlanta."],
}


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Embedded:
    return partial(embedded_bundle, tmp_path_factory)


def pipelines(embedded: Embedded, task: str) -> list[Any]:
    """Return the pipelines of a task's bundles in fp32 and int8."""
    return [pipeline(embedded(task, **choice), provider="cpu", threads=1) for choice in ({}, {"precision": "int8"})]


def integers_in(path: Path) -> int:
    """Return how many weights of a graph are stored in int8, one element each."""
    weights = [one for one in onnx.load(path).graph.initializer if one.data_type == onnx.TensorProto.INT8]
    return sum(int(np.prod(one.dims)) for one in weights)


DECIDED = {
    "text-classification": "label",
    "token-classification": "entity",
    "question-answering": "answer",
    "multiple-choice": "index",
    "fill-mask": "token_str",
}
"""The field of an answer that says what was decided."""


def decided(task: str, answers: list[Any]) -> list[Any]:
    """Return what a task's answers decide, without their scores."""
    if task == "token-classification":
        return [token[DECIDED[task]] for tokens in answers for token in tokens]
    return [(answer[0] if isinstance(answer, list) else answer)[DECIDED[task]] for answer in answers]


@pytest.mark.parametrize("task", ["text-classification", "question-answering", "multiple-choice", "fill-mask"])
def test_answers_are_those_of_fp32(embedded: Embedded, task: str) -> None:
    one, other = pipelines(embedded, task)
    items = ITEMS.get(task, TEXTS)

    assert decided(task, other(items)) == decided(task, one(items))
    report = json.loads((embedded(task, precision="int8") / "report.json").read_text(encoding="utf-8"))
    assert all(form["curve"][-1]["decisions"] >= 50 for form in report["quantization"]["forms"])


def test_tags_are_those_of_fp32(embedded: Embedded) -> None:
    task = "token-classification"
    one, other = pipelines(embedded, task)
    expected, found = (decided(task, pipe(TEXTS)) for pipe in (one, other))

    assert np.mean([a == b for a, b in zip(expected, found, strict=True)]) >= 0.98


@pytest.mark.parametrize("precision", ["int8-tensorrt", "fp8"])
def test_tags_of_graphs_for_tensorrt_are_those_of_fp32(embedded: Embedded, precision: str) -> None:
    task = "token-classification"
    folders = [embedded(task), embedded(task, precision=precision)]
    expected, found = (decided(task, pipeline(folder, provider="cpu", threads=1)(TEXTS)) for folder in folders)
    manifest = read_manifest(folders[1])

    assert np.mean([a == b for a, b in zip(expected, found, strict=True)]) >= 0.98
    assert (manifest.recipe, manifest.precision, manifest.target) == (precision, "float16", "tensorrt")
    assert manifest.graphs[0].rewritten == ()


def test_openvino_decides_as_onnx_runtime_does(embedded: Embedded) -> None:
    """Both round where the graph says; OpenVINO computes LayerNorms and scores in an order of its own."""
    task = "text-classification"
    folder = embedded(task, precision="int8")
    one, other = (pipeline(folder, provider=provider, threads=1)(TEXTS) for provider in ("cpu", "openvino"))

    assert decided(task, other) == decided(task, one)
    assert [row["score"] for row in other] == pytest.approx([row["score"] for row in one], abs=0.05)


def test_embeddings_in_8_bits_are_tied_to_the_projection_and_change_little(embedded: Embedded) -> None:
    task = "fill-mask"
    # A few decisions in a hundred differ: among 3,200 words, several often fit equally well. No block is to be in fp32.
    choices = {"precision": "int8", "min_agreement": 0.9}
    folder, plain = (embedded(task, **choices, **more) for more in ({"quantize_embeddings": True}, {}))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    words, hidden = config["vocab_size"], config["hidden_size"]
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))

    # One table for the lookup and the projection: a byte for each value, and 4 for the scale of each word.
    assert read_manifest(folder).passes["QuantizeEmbeddings"] == 2
    assert integers_in(folder / "model.onnx") - integers_in(plain / "model.onnx") == words * hidden
    assert report["graphs"][0]["saved"] == words * (3 * hidden - 4)
    sizes = [(path / "model.onnx").stat().st_size for path in (plain, folder)]
    assert abs(sizes[0] - sizes[1] - report["graphs"][0]["saved"]) < 5000  # a few nodes more
    assert f"{report['graphs'][0]['saved']:,} bytes less than in fp32" in (folder / "report.md").read_text()

    fp32, other, openvino = (
        decided(task, pipeline(path, provider=provider, threads=1)(ITEMS[task]))
        for path, provider in ((embedded(task), "cpu"), (folder, "cpu"), (folder, "openvino"))
    )
    assert fp32 == other == openvino


def test_vectors_point_where_those_of_fp32_do(embedded: Embedded) -> None:
    task = "feature-extraction"
    one, other = (
        np.array(pipe(TEXTS, pooling="mean", normalize=True, truncation=True)) for pipe in pipelines(embedded, task)
    )

    assert (one * other).sum(-1).min() > 0.99
    assert np.abs(one - other).max() > 1e-5


def test_a_bundle_says_what_it_is_and_is_smaller(embedded: Embedded) -> None:
    folder, plain = embedded("text-classification", precision="int8"), embedded("text-classification")
    manifest = read_manifest(folder)

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    hidden, inner, layers = (config[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    weights = layers * (4 * hidden * hidden + 2 * hidden * inner)
    assert (manifest.recipe, manifest.graphs[0].form) == ("int8", "static")
    assert {name: manifest.passes[name] for name in ("QuantizeProducts", "QuantizeAttention")} == {
        "QuantizeProducts": 6 * layers,
        "QuantizeAttention": 2 * layers,
    }
    graph = onnx.load(folder / "model.onnx")
    assert {node.domain for node in graph.graph.node} == {""}
    onnx.checker.check_model(graph)
    # Weights, and a zero point for each of their columns.
    assert weights < integers_in(folder / "model.onnx") < 1.02 * weights
    assert (plain / "model.onnx").stat().st_size - (folder / "model.onnx").stat().st_size > 2.8 * weights
    assert list(folder.glob("*.data")) == []


def run(*arguments: object) -> Result:
    return CliRunner().invoke(rpln_command, [str(argument) for argument in arguments])


def test_the_commands_take_a_bundle(embedded: Embedded, tmp_path: Path) -> None:
    folder = embedded("text-classification", precision="int8")
    proven = run("validate", folder)
    assert proven.exit_code == 0, proven.output
    shown = run("inspect", folder)
    assert (shown.exit_code, "QuantizeLinear" in shown.output) == (0, True), shown.output
    answers = tmp_path / "answers.jsonl"
    result = run("batch", folder, MAILS, answers, "--provider", "cpu", "--option", "truncation=true")
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == len(MAILS.read_text(encoding="utf-8").splitlines())


def test_the_metric_of_the_gate_is_that_of_the_bundles(
    embedded: Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share_traces(monkeypatch, {})
    data = tmp_path / "mails.jsonl"
    mails = [json.loads(line) for line in MAILS.read_text(encoding="utf-8").splitlines()]
    # A third of the labels is wrong, so that the metric is far from its best value.
    labels = ["spam" if mail["spam"] != (place % 3 == 0) else "ham" for place, mail in enumerate(mails)]
    lines = [{"text": mail["text"], "label": label} for mail, label in zip(mails, labels, strict=True)]
    data.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    plan = make_plan(
        str(DEFAULTS["text-classification"].folder),
        precision="int8-dynamic",
        evaluation=data,
        destination=tmp_path / "out",
    )
    quantization = export(plan).quantization
    assert quantization is not None

    plain, rounded = (
        json.loads(run("eval", folder, data, "--truncate", "--json").stdout)["metrics"]["accuracy"]
        for folder in (embedded("text-classification"), tmp_path / "out")
    )
    assert quantization.metric == f"accuracy on {data}: {plain:.4f} in fp32"
    assert quantization.forms[0].curve[-1].drop == pytest.approx(100 * (plain - rounded))
    assert 0.5 < plain < 0.8


# -- what is not accurate ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("traced_once")
def test_a_gate_that_cannot_be_met_publishes_nothing(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Fidelity(rms=0.25, largest=0.5, decisions=10, agreeing=6)
    monkeypatch.setattr(Trial, "fidelity", lambda *_, **__: wrong)
    arguments = [str(checkpoint("text-classification")), "--int8", "-o", str(tmp_path / "deep" / "out")]
    result = CliRunner().invoke(export_command, arguments)

    assert result.exit_code == 12
    message = " ".join(result.stderr.split())
    assert "not as accurate as asked for, so nothing was published" in message
    assert "at least 99.0% of the decisions equal to those in fp32" in message
    for form in ("static", "static-products", "dynamic"):
        assert f"{form}: refused by the gate: {wrong}" in message
    assert quantize.ADVICE in message
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.usefixtures("traced_once")
def test_texts_and_not_their_windows_are_held_back(exported: Callable[..., Export], tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(["It rained. " * 40, "It snowed.", "No.", "The sun shone, and the wind blew."]))
    options = ("--int8", "static", "--calibration", texts, "--min-agreement", "0")
    folder = exported("text-classification", *options).folder
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))

    assert (report["quantization"]["measured"], report["quantization"]["held_back"]) == (3, 1)
    # The one text that is held back is the long one, all of whose windows are tried.
    assert report["quantization"]["forms"][0]["tried"][0]["decisions"] > 4


@pytest.mark.usefixtures("traced_once")
def test_a_network_in_which_nothing_can_be_quantized_is_refused(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rpln_graphs.passes.quantize_weights.block_size", lambda *_, **__: None)
    monkeypatch.setattr("rpln_export.plan.export_plan.check_blocks", lambda *_: None)  # which sees it before any work
    arguments = [str(checkpoint("text-classification")), "--int4", "--min-agreement", "0", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(export_command, arguments)

    assert result.exit_code == 12
    assert "no product of the network could be quantized: its weight is not in blocks" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_behind_the_option_is_told_from_a_kind_of_int8() -> None:
    result = CliRunner().invoke(export_command, ["--int8", "./my-checkpoint"])

    assert result.exit_code == 2
    assert "rpln-export ./my-checkpoint --int8" in " ".join(result.stderr.split())


@pytest.mark.usefixtures("traced_once")
def test_a_form_that_was_named_is_the_only_one_tried(exported: Callable[..., Export]) -> None:
    folder = exported("text-classification", "--int8", "--optimize", "dynamic-packed", "--min-agreement", "0").folder
    manifest = read_manifest(folder)

    assert manifest.graphs[0].form == "dynamic"
    assert [row.form for row in manifest.graphs[0].rewritten] == ["dynamic-packed"]
    assert "QuantizeDynamically" in manifest.passes


# -- beside other options ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "options", "recipe"),
    [
        ("text-classification", ["--int8", "dynamic", "--allow-partial-fusion"], "int8-dynamic"),
        ("text-classification", ["--int8", "static", "--trace", "full"], "int8-static"),
        ("text-generation", ["--int4", "--variants", "prefill,decode", "--min-agreement", "0"], "int4"),
    ],
)
def test_other_options_are_taken(exported: Callable[..., Export], task: str, options: list[str], recipe: str) -> None:
    made = exported(task, *options)
    manifest = read_manifest(made.folder)
    rounding = {"int8-dynamic": "MatMulInteger", "int8-static": "QuantizeLinear", "int4": "DequantizeLinear"}[recipe]

    assert manifest.recipe == recipe
    for graph in manifest.graphs:
        assert rounding in {node.op_type for node in onnx.load(made.folder / graph.path).graph.node}


TABLES = re.compile(r"word_embeddings\.weight|lm_head\.decoder\.weight")
"""The names of tables of words; a tied one has the second."""
WITH_TABLES = ("--quantize-embeddings", "--min-agreement", "0")


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("fill-mask", ("--int8", "dynamic", "--with-tokenizer", *WITH_TABLES)),
        ("text2text-generation", ("--int4", *WITH_TABLES)),
        ("text-classification", ("--int8", "--target", "tensorrt")),
        ("text-classification", ("--fp8", "--calibration", str(MAILS), "--min-agreement", "0.9")),
    ],
)
def test_bundles_are_proven_again(exported: Callable[..., Export], task: str, options: tuple[str, ...]) -> None:
    made = exported(task, *options)
    proven = run("validate", made.folder, made.checkpoint)
    assert proven.exit_code == 0, proven.output

    graphs = [onnx.load(made.folder / graph.path).graph for graph in read_manifest(made.folder).graphs]
    tables = [one.name for graph in graphs for one in graph.initializer if TABLES.search(one.name)]
    quantized = [name for name in tables if name.endswith((".quantized", ".scale"))]
    assert quantized == (tables if "--quantize-embeddings" in options else [])
    assert tables


def test_few_decisions_are_said_to_tell_little(exported: Callable[..., Export], tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(text[:20] for text in TEXTS), encoding="utf-8")
    made = exported("text-classification", "--int8", "dynamic", "--calibration", str(texts))
    assert f"{len(TEXTS)} decisions tell little: give more texts with --calibration" in made.result.output
