"""A graph that is not equal to eager torch is never published. The refusal says where it begins to differ."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from safetensors.torch import load_file, save_file

from rpln_export import pipeline
from rpln_export.errors import ValidationError
from rpln_graphs.errors import GraphError
from rpln_graphs.save import save_graphs
from rpln_runtime import load
from tests.export.checkpoints import USABLE_LENGTH, make_checkpoint
from tests.export.conftest import Sabotaged
from tests.export.sabotage import (
    Sabotage,
    nan_without_a_real_token,
    nothing,
    one_nan,
    padded_tokens_zeroed,
    right_padding_assumed,
    row_altered,
    rows_disturbed_by_an_empty_one,
    scaled,
)

pytestmark = pytest.mark.usefixtures("traced_once")


@pytest.mark.parametrize("precision", [[], ["--fp16"], ["--bf16"]], ids=["fp32", "fp16", "bf16"])
def test_without_a_mistake_there_is_a_bundle(sabotaged: Sabotaged, tmp_path: Path, precision: list[str]) -> None:
    result = sabotaged(nothing, "text-classification", *precision)
    assert (result.exit_code, (tmp_path / "out" / "rpln.json").is_file()) == (0, True)


# A weight of each block, and the name of the block in the refusal.
BLOCKS = {
    "embeddings.position_embeddings.weight": "embeddings is the first block that drifts",
    "encoder.layer.0.attention.self.value.weight.T": "encoder.layer.0.attention is the first block that drifts",
    "encoder.layer.0.output.dense.bias": "encoder.layer.0.intermediate is the first block that drifts",
    "encoder.layer.1.attention.output.dense.weight.T": "encoder.layer.1.attention is the first block that drifts",
    "encoder.layer.1.intermediate.dense.weight.T": "encoder.layer.1.intermediate is the first block that drifts",
    "LayerNorm.weight": "the residual stream agrees behind every layer",
    "classifier.out_proj.weight": "the residual stream agrees behind every layer",
}


@pytest.mark.parametrize("weight", BLOCKS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_changed_weight_is_refused_and_its_block_is_named(
    sabotaged: Sabotaged, tmp_path: Path, weight: str, precision: str
) -> None:
    options = [] if precision == "fp32" else [f"--{precision}"]
    result = sabotaged(scaled(weight, 3.0), "text-classification", *options)
    assert result.exit_code == ValidationError.exit_code
    assert f"the {precision} graph is not equal to eager torch" in result.stderr
    assert re.search(r"logits \(rpln_runtime\) .*batch \d x length \d+, mask", result.stderr)
    assert BLOCKS[weight] in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint whose residual stream exceeds 65,504."""
    source = make_checkpoint(tmp_path_factory.mktemp("wide"), "text-classification")
    weights = load_file(source / "model.safetensors")
    weights["roberta_prelayernorm.embeddings.LayerNorm.weight"] *= 4e4
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    return source


@pytest.mark.parametrize(
    "weight", ["encoder.layer.0.output.dense.bias", "encoder.layer.1.attention.output.dense.weight.T"]
)
def test_a_block_is_found_in_a_rescaled_residual_stream(sabotaged: Sabotaged, wide: Path, weight: str) -> None:
    # Blocks add little to such a large residual stream, so their output has to be changed a lot.
    result = sabotaged(scaled(weight, 6e4), wide, "--fp16")
    assert result.exit_code == ValidationError.exit_code
    assert BLOCKS[weight] in result.stderr
    found = re.search(r"residual stream differs by (\S+), and its range is (\S+)\.", result.stderr)
    assert found is not None
    # Values are given in the units of the checkpoint, not of the scaled graph.
    difference, reach = map(float, found.groups())
    assert reach > 65504
    assert difference > 0.02 * reach


def test_a_bf16_graph_is_refused_by_its_rounding_copy(sabotaged: Sabotaged, tmp_path: Path) -> None:
    result = sabotaged(scaled("encoder.layer.1.attention.output.dense.bias", 3.0), "text-classification", "--bf16")
    assert result.exit_code == ValidationError.exit_code
    assert "logits (rounding copy) differs by" in result.stderr
    assert "encoder.layer.1.attention is the first block that drifts" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_every_output_that_differs_is_named(sabotaged: Sabotaged) -> None:
    result = sabotaged(
        scaled("encoder.layer.1.attention.self.value.bias", 3.0),
        "text-classification",
        "--outputs=hidden_states,attentions",
    )
    refused = re.findall(r"^  (\S+) \(rpln_runtime\)", result.stderr, flags=re.MULTILINE)
    # Values before the change, and attention weights, which do not depend on it, do not differ.
    assert refused == ["logits", "hidden_states.2"]


@pytest.mark.parametrize(
    ("sabotage", "case"),
    [
        (right_padding_assumed, r"mask (left|holes|empty)"),
        (padded_tokens_zeroed, r"mask (left|holes|empty)"),
        (rows_disturbed_by_an_empty_one, r"batch (2|7) .*mask empty"),
        (row_altered("embeddings.position_embeddings.weight", -1), rf"batch 1 x length {USABLE_LENGTH}, mask none"),
        (row_altered("embeddings.word_embeddings.weight", 0), r"batch"),
        (row_altered("embeddings.word_embeddings.weight", -1), r"batch"),
        (row_altered("embeddings.position_embeddings.weight", 2), r"batch"),
    ],
    ids=[
        "right-padding-assumed",
        "padded-first-token-dropped",
        "empty-row-disturbs-others",
        "last-position",
        "first-id",
        "last-id",
        "first-position",
    ],
)
def test_the_stress_set_reaches_what_exporters_get_wrong(
    sabotaged: Sabotaged, tmp_path: Path, sabotage: Sabotage, case: str
) -> None:
    result = sabotaged(sabotage, "text-classification")
    assert result.exit_code == ValidationError.exit_code
    assert re.search(rf"differs by .* times what is accepted; .*{case}", result.stderr)
    assert list(tmp_path.iterdir()) == []


def test_the_second_token_type_is_reached(sabotaged: Sabotaged) -> None:
    result = sabotaged(row_altered("embeddings.token_type_embeddings.weight", 1), "question-answering")
    assert result.exit_code == ValidationError.exit_code
    assert "start_logits (rpln_runtime) differs by" in result.stderr
    assert "end_logits (rpln_runtime) differs by" in result.stderr


def test_outputs_of_padded_tokens_matter_only_to_heads_that_read_the_first_token(
    sabotaged: Sabotaged, tmp_path: Path
) -> None:
    assert sabotaged(padded_tokens_zeroed, "token-classification").exit_code == 0
    assert load(tmp_path / "out").manifest.task == "token-classification"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_nan_is_refused_and_called_nan(sabotaged: Sabotaged, tmp_path: Path, precision: str) -> None:
    options = [] if precision == "fp32" else [f"--{precision}"]
    result = sabotaged(one_nan("encoder.layer.1.output.dense.bias"), "text-classification", *options)
    assert result.exit_code == ValidationError.exit_code
    assert re.search(r"logits \(rpln_runtime\) differs by inf.* batch .* not finite", result.stderr)
    assert "encoder.layer.1.intermediate is the first block that drifts" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_rows_of_nothing_but_padding_must_stay_finite(sabotaged: Sabotaged, tmp_path: Path) -> None:
    result = sabotaged(nan_without_a_real_token, "token-classification")
    assert result.exit_code == ValidationError.exit_code
    assert re.search(r"logits \(rpln_runtime\) differs by inf.* mask empty.* not finite", result.stderr)
    assert list(tmp_path.iterdir()) == []


def test_an_older_bundle_stays_after_a_refusal(sabotaged: Sabotaged, tmp_path: Path) -> None:
    assert sabotaged(nothing, "text-classification").exit_code == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert sabotaged(scaled("classifier.out_proj.bias"), "text-classification").exit_code == ValidationError.exit_code
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    load(tmp_path / "out")


@pytest.mark.parametrize("precision", [[], ["--fp16"], ["--bf16"]], ids=["fp32", "fp16", "bf16"])
def test_the_saved_graph_is_proven(
    sabotaged: Sabotaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: list[str]
) -> None:
    def save_others(graphs: Mapping[str, ir.Model], folder: Path, **_: Any) -> None:
        others = {path: ir.from_proto(ir.to_proto(graph)) for path, graph in graphs.items()}
        for other in others.values():
            scaled("encoder.layer.0.output.dense.bias", 3.0)(other)
        save_graphs(others, folder)

    monkeypatch.setattr(pipeline, "save_graphs", save_others)
    result = sabotaged(nothing, "text-classification", *precision)
    assert result.exit_code == ValidationError.exit_code
    assert "encoder.layer.0.intermediate is the first block that drifts" in result.stderr
    assert list(tmp_path.iterdir()) == []


def unknown_operator(model: ir.Model) -> None:
    node = model.graph[-1]
    node.op_type = "NoSuchOperator"


def test_a_graph_that_onnx_refuses_is_not_published(sabotaged: Sabotaged, tmp_path: Path) -> None:
    result = sabotaged(unknown_operator, "text-classification")
    assert result.exit_code == GraphError.exit_code
    assert "NoSuchOperator" in result.stderr
    assert list(tmp_path.iterdir()) == []
