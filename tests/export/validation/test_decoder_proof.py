"""A wrong cache is refused, with the step where it shows. What graphs pass on is scaled alike in all of them."""

import json
import re
from pathlib import Path

import onnx_ir as ir
import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from rpln_export.cli import export_command
from rpln_export.errors import ValidationError
from tests.export.checkpoints import make_checkpoint
from tests.export.conftest import Sabotaged
from tests.export.sabotage import (
    Sabotage,
    heads_never_silenced,
    layers_exchanged,
    new_before_past,
    of_graph_with,
    own_token_hidden_in_steps,
    past_forgotten,
    positions_late_in_steps,
    right_padding_assumed,
    row_altered,
    scaled,
)

pytestmark = pytest.mark.usefixtures("traced_once")

PRECISIONS = pytest.mark.parametrize("precision", [[], ["--fp16"], ["--bf16"]], ids=["fp32", "fp16", "bf16"])


@pytest.mark.parametrize(
    ("sabotage", "case"),
    [
        (new_before_past, r"mask \w+, step \d"),
        (past_forgotten, r"mask \w+, step \d"),
        (layers_exchanged, r"mask \w+, step \d"),
        (own_token_hidden_in_steps, r"mask \w+, step \d"),
        (positions_late_in_steps, r"mask \w+, step \d"),
        (row_altered("embeddings.position_embeddings.weight", -1), r"1 prompts of 61, mask none, step 3"),
    ],
    ids=[
        "new-before-past",
        "past-forgotten",
        "layers-exchanged",
        "mask-off-by-one",
        "positions-off-by-one",
        "last-row",
    ],
)
def test_an_error_in_steps_is_refused_with_the_step_that_shows_it(
    sabotaged: Sabotaged, tmp_path: Path, sabotage: Sabotage, case: str
) -> None:
    result = sabotaged(sabotage, "text-generation")
    assert result.exit_code == ValidationError.exit_code, result.output
    assert re.search(rf"logits \(rpln_runtime\) .* times what is accepted; .*{case}", result.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sabotage", [new_before_past, past_forgotten, positions_late_in_steps])
def test_an_error_of_the_cache_is_not_blamed_on_a_block(sabotaged: Sabotaged, sabotage: Sabotage) -> None:
    result = sabotaged(sabotage, "text-generation")
    assert "what differs is the cache" in result.stderr
    assert "is the first block that drifts" not in result.stderr


def test_a_block_that_differs_is_named_in_a_step_too(sabotaged: Sabotaged) -> None:
    result = sabotaged(scaled("encoder.layer.1.attention.self.value.bias", 3.0), "text-generation")
    assert "encoder.layer.1.attention is the first block that drifts" in result.stderr


def test_a_head_mask_that_is_ignored_is_refused(sabotaged: Sabotaged) -> None:
    result = sabotaged(heads_never_silenced, "text-generation", "--inputs=head_mask")
    assert result.exit_code == ValidationError.exit_code, result.output
    assert re.search(r"logits \(rpln_runtime\) .* times what is accepted", result.stderr)


def test_a_mask_taken_for_right_padding_is_refused(sabotaged: Sabotaged) -> None:
    result = sabotaged(right_padding_assumed, "text-generation")
    assert re.search(r"logits .*mask (left|holes|empty), (prompt|step \d)", result.stderr)


def test_the_graph_of_the_steps_is_proven_with_the_cache_of_the_prompts_graph(
    sabotaged: Sabotaged, tmp_path: Path
) -> None:
    def forget(model: ir.Model) -> None:
        if any(value.name == "past_key_values.0.key" for value in model.graph.inputs):
            past_forgotten(model)

    result = sabotaged(forget, "text-generation", "--variants=prefill,decode")
    assert result.exit_code == ValidationError.exit_code, result.output
    assert re.search(r"logits \(rpln_runtime\) .*, step \d", result.stderr)
    assert list(tmp_path.iterdir()) == []


@PRECISIONS
@pytest.mark.parametrize(
    ("graph", "weight"),
    [("last_hidden_state", "crossattention.self.value"), ("present.0.key", "crossattention.output.dense")],
    ids=["encoder", "decoder"],
)
def test_values_that_one_graph_scales_and_the_other_does_not_are_refused(
    sabotaged: Sabotaged, tmp_path: Path, graph: str, weight: str, precision: list[str]
) -> None:
    sabotage = of_graph_with(graph, scaled(f"encoder.layer.0.{weight}.weight.T", 0.5))
    result = sabotaged(sabotage, "text2text-generation", *precision)
    assert result.exit_code == ValidationError.exit_code, result.output
    assert re.search(r"^  logits \(", result.stderr, flags=re.MULTILINE)
    assert "encoder.layer.0.crossattention is the first block that drifts" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_wide_streams_and_values_are_scaled_alike_in_every_graph(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "checkpoint", "text2text-generation")
    weights = load_file(source / "model.safetensors")
    for part in ("encoder.", "decoder.roberta_prelayernorm."):
        weights[f"{part}embeddings.LayerNorm.weight"] *= 4e4
    for attention in ("attention", "crossattention"):
        layer = f"decoder.roberta_prelayernorm.encoder.layer.1.{attention}"
        weights[f"{layer}.self.value.weight"] *= 2e6
        weights[f"{layer}.output.dense.weight"] *= 1e-3
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    arguments = [str(source), "--fp16", "--variants=with-past,prefill,decode", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(export_command, arguments)
    assert result.exit_code == 0, result.output
    graphs = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["graphs"]
    rescaling = {graph["variant"]: graph["rescaling"] for graph in graphs}
    assert rescaling.keys() == {"with-past", "prefill", "decode", "encoder"}
    assert all(row["shift"] > 0 and row["residual_peak"] > 65504 for row in rescaling.values())
    # Both attentions of the layer, in the graph that reads the values and in the one that computes them.
    assert {variant: row["rescaled_values"] for variant, row in rescaling.items()} == {
        "with-past": 2,
        "prefill": 2,
        "decode": 2,
        "encoder": 1,
    }
