"""report.json, report.md and the manifest tell the truth: what was exported, what it took and how it was proven."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import onnx
import pytest
import torch
import transformers
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from rpln_export.cli import export_command
from rpln_graphs.recipes import RECIPES
from rpln_runtime.manifest import read_manifest
from tests.export.checkpoints import make_checkpoint
from tests.export.conftest import Export

PRECISIONS = ("fp32", "fp16", "bf16")
METHODS = {
    "fp32": ["rpln_runtime"],
    "fp16": ["rpln_runtime", "rounding copy", "rpln_runtime, fused for cuda", "rounding copy, fused for cuda"],
    "bf16": ["rounding copy", "rounding copy, fused for cuda"],
}
FLOAT16_MAX = 65504.0


def options(precision: str) -> list[str]:
    return [] if precision == "fp32" else [f"--{precision}"]


def report_of(export: Export) -> Any:
    return json.loads((export.folder / "report.json").read_text(encoding="utf-8"))


def tables(markdown: str) -> dict[str, list[list[str]]]:
    """Return the first table under each heading as rows of cells, with its header."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in markdown.splitlines():
        if line.startswith("#"):
            heading = line.strip("# ")
        elif line.startswith("|") and not line.startswith("|---"):
            found.setdefault(heading, []).append([cell.strip() for cell in line.strip("|").split("|")])
    return found


@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_says_what_was_exported(exported: Callable[..., Export], precision: str) -> None:
    export = exported("text-classification", *options(precision))
    report = report_of(export)
    assert (report["name"], report["task"], report["recipe"], report["opset"]) == (
        export.checkpoint.name,
        "text-classification",
        precision,
        20,
    )
    (graph,) = report["graphs"]
    assert (graph["variant"], graph["path"]) == ("full", "model.onnx")
    assert (graph["inputs"], graph["outputs"]) == (["input_ids", "attention_mask"], ["logits"])
    assert report["destination"] == str(export.folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(export.checkpoint)
    assert report["parameters"] == model.num_parameters()
    assert report["versions"]["torch"] == torch.__version__
    assert report["versions"]["transformers"] == transformers.__version__


@pytest.mark.parametrize("precision", PRECISIONS)
def test_sizes_are_those_of_the_files(exported: Callable[..., Export], precision: str) -> None:
    export = exported("text-classification", *options(precision))
    report = report_of(export)
    about_the_rest = {"rpln.json", "report.json", "report.md", "report.html"}
    assert report["sizes"] == {
        path.name: path.stat().st_size for path in export.folder.iterdir() if path.name not in about_the_rest
    }
    written = onnx.load(export.folder / "model.onnx")
    (graph,) = report["graphs"]
    assert graph["operators"] == count(node.op_type for node in written.graph.node)
    width = {"fp32": 4, "fp16": 2, "bf16": 2}[precision]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(export.checkpoint)
    # The only token type is folded into the positions. Constants, such as the scale of attention, add a few bytes.
    weights = model.num_parameters() - model.config.hidden_size
    assert weights * width <= sum(graph["weights"].values()) <= weights * width + 64


def count(names: Any) -> dict[str, int]:
    listed = list(names)
    return {name: listed.count(name) for name in set(listed)}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_step_has_its_time_and_its_memory(exported: Callable[..., Export], precision: str) -> None:
    steps = report_of(exported("text-classification", *options(precision)))["steps"]
    assert [step["name"] for step in steps] == ["load", "trace", "rewrite", "optimize", "save", "validate", "compile"]
    assert all(0 < step["seconds"] < 300 for step in steps)
    assert all(10**8 < step["peak_memory"] < 10**10 for step in steps)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_validation_table_has_every_output_by_every_method(exported: Callable[..., Export], precision: str) -> None:
    report = report_of(exported("question-answering", *options(precision)))
    tolerance = RECIPES[precision].tolerance
    assert report["tolerance"] == dataclasses.asdict(tolerance)
    rows = report["comparisons"]
    assert [(row["method"], row["output"]) for row in rows] == [
        (method, output) for method in METHODS[precision] for output in ("start_logits", "end_logits")
    ]
    for row in rows:
        assert row["difference"] > 0
        assert 0 < row["share"] <= 1
        assert (row["distance"] is not None) == (row["noise"] is not None) == (precision == "fp32")
        assert row["agreement"] == row["agreeing"] / row["decisions"]
        assert row["agreement"] >= (tolerance.argmax_agreement or 0.0)
        assert row["worst_case"].startswith("batch ")
        assert row["cases"] > 30
        assert row["finite"]


def test_a_bf16_report_names_how_it_was_validated(exported: Callable[..., Export]) -> None:
    export = exported("text-classification", "--bf16")
    (note,) = report_of(export)["notes"]
    assert "no bf16 kernels" in note
    assert "rounding to bf16 after every operator" in note
    assert note in (export.folder / "report.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Return an fp16 export of a checkpoint whose residual stream, and one of whose activations, exceeds 65,504."""
    folder = tmp_path_factory.mktemp("wide")
    source = make_checkpoint(folder / "checkpoint", "text-classification")
    weights = load_file(source / "model.safetensors")
    encoder = "roberta_prelayernorm.encoder.layer"
    weights["roberta_prelayernorm.embeddings.LayerNorm.weight"] *= 3e5
    weights[f"{encoder}.1.intermediate.dense.weight"] *= 2e5
    weights[f"{encoder}.1.output.dense.weight"] *= 1e-1
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    result = CliRunner().invoke(export_command, [str(source), "--fp16", "-o", str(folder / "bundle")])
    assert result.exit_code == 0, result.output
    return Export(checkpoint=source, folder=folder / "bundle", result=result)


def test_rescaling_is_reported_with_its_headroom(wide: Export) -> None:
    rescaling = report_of(wide)["graphs"][0]["rescaling"]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(wide.checkpoint)
    with torch.inference_mode():
        states = model(torch.arange(5, 69)[None], output_hidden_states=True).hidden_states
    seen = max(float(state.abs().max()) for state in states)
    assert seen > FLOAT16_MAX
    assert seen / 2 < rescaling["residual_peak"] < seen * 10
    assert rescaling["headroom"] == pytest.approx(FLOAT16_MAX / (rescaling["residual_peak"] / 2 ** rescaling["shift"]))
    assert rescaling["headroom"] >= 8
    text = (wide.folder / "report.md").read_text(encoding="utf-8")
    assert f"scaled by 2^-{rescaling['shift']}" in text
    assert f"{rescaling['headroom']:.1f} times" in text


def test_a_matmul_that_stays_fp32_is_named_with_its_reach(wide: Export) -> None:
    kept = report_of(wide)["graphs"][0]["rescaling"]["kept_float"]
    assert "encoder.layer.1.intermediate.dense.MatMul" in kept
    assert all(reach > FLOAT16_MAX / 8 for reach in kept.values())
    rows = tables((wide.folder / "report.md").read_text(encoding="utf-8"))["Range: model.onnx"]
    assert [row[0] for row in rows] == ["MatMul", *kept]
    graph = onnx.load(wide.folder / "model.onnx").graph
    (node,) = [node for node in graph.node if node.name == "encoder.layer.1.intermediate.dense.MatMul"]
    (weight,) = [tensor for tensor in graph.initializer if tensor.name == node.input[1]]
    assert weight.data_type == onnx.TensorProto.FLOAT


def test_an_fp32_report_speaks_of_no_range(exported: Callable[..., Export]) -> None:
    export = exported("text-classification")
    assert report_of(export)["graphs"][0]["rescaling"] is None
    assert "## Range" not in (export.folder / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_page_for_people_has_the_same_rows(exported: Callable[..., Export], precision: str) -> None:
    export = exported("text-classification", *options(precision))
    report, text = report_of(export), (export.folder / "report.md").read_text(encoding="utf-8")
    found = tables(text)
    assert text.startswith(f"# {export.checkpoint.name}: text-classification, {precision}\n")
    assert {heading: len({len(row) for row in rows}) for heading, rows in found.items()} == dict.fromkeys(found, 1)
    assert [row[:2] for row in found["Validation"][1:]] == [
        [row["output"], row["method"]] for row in report["comparisons"]
    ]
    assert [float(row[3]) for row in found["Validation"][1:]] == pytest.approx(
        [row["difference"] for row in report["comparisons"]], rel=1e-2
    )
    assert [row[0] for row in found["Time and memory"][1:]] == [step["name"] for step in report["steps"]]
    assert {row[0]: int(row[1].replace(",", "")) for row in found["Sizes"][1:]} == report["sizes"]
    assert {row[0]: int(row[1]) for row in found["Passes: model.onnx"][1:]} == report["graphs"][0]["passes"]
    assert "\n\n\n" not in text
    assert text.endswith(".\n")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_manifest_sums_the_proof_up(exported: Callable[..., Export], precision: str) -> None:
    export = exported("text-classification", *options(precision))
    report, validation = report_of(export), read_manifest(export.folder).validation
    assert [(row["output"], row["method"], row["difference"]) for row in validation["comparisons"]] == [
        (row["output"], row["method"], row["difference"]) for row in report["comparisons"]
    ]
    assert validation["notes"] == report["notes"]


def test_no_report_holds_a_path_but_the_destination(exported: Callable[..., Export]) -> None:
    # A bundle is copied to servers, so nothing in it may depend on the place where it was made.
    export = exported("text-classification")
    texts = {path.name: path.read_text(encoding="utf-8") for path in export.folder.iterdir() if path.suffix != ".onnx"}
    assert {name for name, text in texts.items() if str(export.folder.parent) in text} <= {"report.json"}
    assert [name for name, text in texts.items() if str(export.checkpoint) in text] == []
    assert str(export.checkpoint).encode() not in (export.folder / "model.onnx").read_bytes()
