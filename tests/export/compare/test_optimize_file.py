"""`rpln optimize` rewrites an ONNX file of another exporter as far as the passes apply, or refuses it with a reason."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from click.testing import CliRunner, Result

from rpln_export.cli import rpln_command
from rpln_export.compare import optimize_file
from rpln_graphs.forms import FORMS, Form
from rpln_graphs.rewriting.base import ExplainingPass
from rpln_graphs.rewriting.initializers import change_initializer
from rpln_graphs.rewriting.traits import GraphTraits
from tests.graphs.networks import trace_task
from tests.graphs.text_graphs import run

LAYERS = 2
GRAPH_ERROR, INPUT_ERROR, DESTINATION_ERROR, VALIDATION_ERROR = 8, 3, 9, 10


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file as another exporter writes it, in which no name resembles those of the model."""
    model = ir.from_proto(ir.to_proto(trace_task("token-classification", inputs=("input_ids", "attention_mask")).graph))
    known = {id(value) for value in (*model.graph.inputs, *model.graph.outputs)}
    for number, node in enumerate(model.graph):
        node.name = f"node_{number}"
        for value in node.outputs:
            value.name = value.name if id(value) in known else f"val_{number}"
    for number, weight in enumerate(list(model.graph.initializers.values())):
        weight.name = f"onnx::weight_{number}"
    model.metadata_props.clear()
    path = tmp_path_factory.mktemp("foreign") / "model.onnx"
    ir.save(model, path)
    return path


def optimize(*arguments: object) -> Result:
    return CliRunner().invoke(rpln_command, ["optimize", *map(str, arguments)])


def optimized(*arguments: object) -> Any:
    result = optimize(*arguments, "--json")
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("form", "counts"),
    [
        ("standard", {}),
        ("attention", {"FuseAttention": LAYERS}),
        ("merged", {"MergeProjections": LAYERS}),
        ("fused", {"FuseMultiHeadAttention": LAYERS, "FuseSkipLayerNorm": 2 * LAYERS + 1}),
        ("packed", {"PackTokens": LAYERS}),
    ],
)
def test_a_graph_of_this_architecture_is_rewritten(
    file: Path, tmp_path: Path, form: str, counts: dict[str, int]
) -> None:
    target = tmp_path / "rewritten.onnx"
    passes = optimized(file, "-o", target, "--form", form)["passes"]

    assert {name: passes[name] for name in counts} == counts
    assert (passes["FoldQueryScale"], passes["FoldTokenTypes"]) == (LAYERS, 1)
    mask = np.array([[1, 1, 1, 1], [0, 0, 1, 1], [1, 0, 1, 0]])
    feeds = {"input_ids": np.random.default_rng(1).integers(0, 40, mask.shape), "attention_mask": mask}
    before, after = (run(ir.load(path), feeds)["logits"] for path in (file, target))
    assert np.abs(before - after)[mask == 1].max() <= 1e-5 * max(1.0, np.abs(before).max())


def test_what_a_pass_refuses_is_reported_with_its_reason(file: Path, tmp_path: Path) -> None:
    model = onnx.load(file)
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    model.graph.output.append(onnx.helper.make_tensor_value_info(softmax.output[0], onnx.TensorProto.FLOAT, None))
    onnx.save(model, tmp_path / "probabilities.onnx")

    result = optimized(tmp_path / "probabilities.onnx", "-o", tmp_path / "rewritten.onnx", "--form", "fused")

    assert result["passes"]["FuseMultiHeadAttention"] == LAYERS - 1
    ((refusal),) = result["refusals"]["FuseMultiHeadAttention"]
    assert refusal["node"] == softmax.name
    assert refusal["reason"]


@pytest.mark.parametrize("name", ["taken.onnx", "taken.onnx.data"])
def test_a_file_that_is_there_is_not_written_over(file: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")

    result = optimize(file, "-o", tmp_path / "taken.onnx")

    assert (result.exit_code, (tmp_path / name).read_text()) == (DESTINATION_ERROR, "mine")
    assert f"{name} exists already" in result.stderr


def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no graph")

    result = optimize(tmp_path / "text.onnx", "-o", tmp_path / "out.onnx")

    assert result.exit_code == GRAPH_ERROR
    assert "cannot be read as an ONNX graph" in result.stderr
    assert not (tmp_path / "out.onnx").exists()


def test_a_graph_of_other_inputs_needs_feeds(tmp_path: Path) -> None:
    source = tmp_path / "sum.onnx"
    onnx.save(
        onnx.parser.parse_model(
            '<ir_version: 10, opset_import: ["": 20]> g (float[n] x, float[n] y) => (float[n] z) { z = Add(x, y) }'
        ),
        source,
    )
    np.savez(tmp_path / "feeds.npz", x=np.ones(3, np.float32), y=np.ones(3, np.float32))

    refused = optimize(source, "-o", tmp_path / "out.onnx")
    assert refused.exit_code == INPUT_ERROR
    assert "takes x, y" in refused.stderr
    assert "--feeds" in refused.stderr
    optimized(source, "-o", tmp_path / "out.onnx", "--feeds", tmp_path / "feeds.npz")
    assert [node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node] == ["Add"]


class Spoil(ExplainingPass):
    """A pass that makes a mistake."""

    def formula(self, network: GraphTraits) -> int:
        return network.layers

    def rewrite(self, model: ir.Model) -> int:
        weight = next(
            value for value in model.graph.initializers.values() if value.shape is not None and value.shape.rank() == 2
        )
        change_initializer(weight, lambda array: array * 2)
        return 1


def test_a_result_that_differs_is_not_written(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMS, "spoilt", Form(name="spoilt", passes=(Spoil,)))

    result = optimize(file, "-o", tmp_path / "out.onnx", "--form", "spoilt")

    assert result.exit_code == VALIDATION_ERROR
    assert "after rewriting, logits differs by" in result.stderr
    assert not (tmp_path / "out.onnx").exists()


class Lose(Spoil):
    """A pass that exchanges one output for another."""

    def rewrite(self, model: ir.Model) -> int:
        model.graph.outputs[0].name = "other"
        return 1


def test_a_result_that_lost_an_output_is_not_written(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FORMS, "lossy", Form(name="lossy", passes=(Lose,)))

    result = optimize(file, "-o", tmp_path / "out.onnx", "--form", "lossy")

    assert result.exit_code == VALIDATION_ERROR
    assert "logits cannot be compared" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_folders_that_are_missing_are_made(file: Path, tmp_path: Path) -> None:
    optimized(file, "-o", tmp_path / "nowhere" / "out.onnx")
    assert [path.name for path in (tmp_path / "nowhere").iterdir()] == ["out.onnx"]


def test_a_place_that_cannot_be_written_is_reported(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = optimize(file, "-o", file / "out.onnx")
    assert (below.exit_code, "cannot be written" in below.stderr) == (DESTINATION_ERROR, True)
    missing = optimize(tmp_path / "no.onnx", "-o", tmp_path / "nowhere" / "out.onnx")
    assert missing.exit_code not in {0, DESTINATION_ERROR}

    def full(model: ir.Model, path: Path) -> None:
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(optimize_file, "save_graph", full)
    stopped = optimize(file, "-o", tmp_path / "out.onnx")
    assert (stopped.exit_code, os.strerror(errno.ENOSPC) in stopped.stderr) == (DESTINATION_ERROR, True)
    assert list(tmp_path.iterdir()) == []
