"""`rpln inspect A B` shows what two graphs hold, and the first value in which they differ."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper

from rpln_export.cli import rpln_command
from rpln_export.compare.values import compare_values
from rpln_graphs.errors import GraphError
from rpln_runtime.errors import InputError, ManifestError
from tests.export.conftest import Export
from tests.export.sabotage import Sabotage, padded_tokens_zeroed, past_forgotten, scaled
from tests.graphs.text_graphs import model_from_text

pytestmark = pytest.mark.usefixtures("traced_once")

USAGE = 2
TASK = "token-classification"
OUTPUT_PROJECTION = "encoder.layer.1.attention.output.dense"


def inspect(*arguments: object) -> Result:
    return CliRunner().invoke(rpln_command, ["inspect", *map(str, arguments)])


def compared(*arguments: object) -> Any:
    result = inspect(*arguments, "--json")
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return json.loads(result.stdout)


def graph_of(folder: Path) -> ir.Model:
    return ir.load(folder / "model.onnx")


def altered(folder: Path, sabotage: Sabotage, path: Path) -> Path:
    model = graph_of(folder)
    sabotage(model)
    ir.save(model, path)
    return path


# What is in the graphs


def test_operators_are_counted_layer_by_layer(exported: Callable[..., Export]) -> None:
    folder = exported(TASK).folder
    operators = compared(folder, folder)["first"]["operators"]
    # The products of a layer: Q, K, V, scores, context, the attention's output, and two of the feed-forward block.
    assert operators["MatMul"] == {"0": 8, "1": 8, "outside": 1}
    # The LayerNorm of the embeddings, and the final one.
    assert operators["LayerNormalization"] == {"0": 2, "1": 2, "outside": 2}
    assert operators["Gelu"] == {"0": 1, "1": 1}
    assert sum(sum(layers.values()) for layers in operators.values()) == len(graph_of(folder).graph)


def test_a_fused_operator_is_counted_in_the_layer_of_its_weights(
    exported: Callable[..., Export], tmp_path: Path
) -> None:
    folder = exported(TASK).folder

    def fuse_second_gelu(model: ir.Model) -> None:
        (gelu,) = [node for node in model.graph if node.op_type == "Gelu" and "layer.1." in (node.name or "")]
        add = gelu.inputs[0].producer()  # type: ignore[union-attr]  # an Add in this graph
        assert add is not None
        fused = ir.node("BiasGelu", add.inputs, domain="com.microsoft", name="fused_7")
        fused.outputs[0].name = "val_7"
        model.graph.insert_after(gelu, fused)
        gelu.outputs[0].replace_all_uses_with(fused.outputs[0])
        model.graph.remove([gelu, add], safe=True)
        model.opset_imports["com.microsoft"] = 1

    document = compared(folder, altered(folder, fuse_second_gelu, tmp_path / "fused.onnx"))
    assert document["second"]["opsets"] == {"ai.onnx": 20, "com.microsoft": 1}
    assert document["second"]["operators"]["com.microsoft.BiasGelu"] == {"1": 1}
    assert document["second"]["operators"]["Gelu"] == {"0": 1}
    assert document["values"]["differing"] == []
    shown = inspect(folder, tmp_path / "fused.onnx").stdout
    assert "8 each in 0-1, 1 outside" in shown
    assert "com.microsoft.BiasGelu" in shown


def test_weights_are_told_apart_by_name_form_and_number(exported: Callable[..., Export], tmp_path: Path) -> None:
    folder = exported(TASK).folder

    def change(model: ir.Model) -> None:
        initializers = model.graph.initializers
        initializers["classifier.bias"].name = "classifier.offset"
        scaled(f"{OUTPUT_PROJECTION}.bias", 2.0)(model)

    weights = compared(folder, altered(folder, change, tmp_path / "other.onnx"))["weights"]
    assert weights == {
        "only_first": ["classifier.bias"],
        "only_second": ["classifier.offset"],
        "other_form": {},
        "other_numbers": [f"{OUTPUT_PROJECTION}.bias"],
    }


def test_precision_is_read_off_the_weights(exported: Callable[..., Export]) -> None:
    document = compared(exported(TASK).folder, exported(TASK, "--fp16").folder)
    for side, options in (("first", []), ("second", ["--fp16"])):
        sizes: Counter[str] = Counter()
        for weight in onnx.load(exported(TASK, *options).folder / "model.onnx").graph.initializer:
            sizes[numpy_helper.to_array(weight).dtype.name] += numpy_helper.to_array(weight).nbytes
        assert document[side]["weights"] == sizes
    assert max(document["second"]["weights"], key=document["second"]["weights"].get) == "float16"
    forms = document["weights"]["other_form"]
    assert forms[f"{OUTPUT_PROJECTION}.bias"] == ["float32 [32]", "float16 [32]"]


def test_signatures_are_shown(exported: Callable[..., Export]) -> None:
    document = compared(exported(TASK).folder, exported("text-classification").folder)
    assert document["first"]["inputs"] == document["second"]["inputs"]
    assert document["first"]["inputs"][0] == "input_ids int64 [batch, sequence]"
    assert document["first"]["outputs"] == ["logits float32 [batch, sequence, 5]"]
    assert document["second"]["outputs"] == ["logits float32 [batch, 5]"]


# Where values part


def float_values(model: ir.Model) -> int:
    floats = {ir.DataType.FLOAT, ir.DataType.FLOAT16}
    return sum(value.dtype in floats for node in model.graph for value in node.outputs)


@pytest.mark.parametrize("task", [TASK, "multiple-choice", "text-generation", "text2text-generation"])
def test_a_graph_agrees_with_itself_in_every_float_value(exported: Callable[..., Export], task: str) -> None:
    folder = exported(task).folder
    values = compared(folder, folder)["values"]
    assert values["compared"] == float_values(graph_of(folder)) > 50
    assert (values["differing"], values["other_shape"]) == ([], 0)
    assert {row["name"]: row["difference"] for row in values["outputs"]}["logits"] == 0.0
    assert f"All {values['compared']} common values agree within 0.0001" in inspect(folder, folder).stdout


@pytest.mark.parametrize(
    "text", [[], ["--text", "The dog barked."], ["--text", "It rained.", "--text", "Ada slept on."]]
)
def test_the_first_value_that_differs_is_named(
    exported: Callable[..., Export], tmp_path: Path, text: list[str]
) -> None:
    folder = exported(TASK).folder
    other = altered(folder, scaled(f"{OUTPUT_PROJECTION}.weight.T", 1.01), tmp_path / "other.onnx")
    values = compared(folder, other, *text)["values"]
    names = [row["name"] for row in values["differing"]]
    assert names[:2] == [f"{OUTPUT_PROJECTION}.MatMul", f"{OUTPUT_PROJECTION}.Add"]
    assert "logits" in names
    first = values["differing"][0]
    assert first["difference"] == pytest.approx(0.01 * first["reach"] / 1.01, rel=1e-3)
    shown = " ".join(inspect(folder, other, *text).stdout.split())
    assert f"The first is {OUTPUT_PROJECTION}.MatMul" in shown
    assert compared(folder, other, *text, "--difference", "0.5")["values"]["differing"] == []


def test_a_loss_from_the_cache_is_found(exported: Callable[..., Export], tmp_path: Path) -> None:
    folder = exported("text-generation").folder
    values = compared(folder, altered(folder, past_forgotten, tmp_path / "other.onnx"))["values"]
    assert values["differing"][0]["name"] == "present.1.value"


def test_a_variant_is_chosen(exported: Callable[..., Export]) -> None:
    folder = exported("text-generation", "--variants=prefill,decode").folder
    document = compared(folder, folder, "--variant", "decode")
    assert [document[side]["path"] for side in ("first", "second")] == [str(folder / "decode.onnx")] * 2
    refused = inspect(folder, folder, "--variant", "full")
    assert refused.exit_code == GraphError.exit_code
    assert "Choose one of prefill, decode" in refused.stderr


@pytest.mark.parametrize("precision", ["--fp16", "--bf16"])
def test_a_lower_type_agrees_within_what_it_can_tell_apart(exported: Callable[..., Export], precision: str) -> None:
    folders = exported(TASK).folder, exported(TASK, precision).folder
    values = compared(*folders)["values"]
    assert (values["bound"], values["differing"]) == (0.02, [])
    assert len(compared(*folders, "--difference", "1e-5")["values"]["differing"]) > 10


def test_values_at_padding_do_not_count(exported: Callable[..., Export], tmp_path: Path) -> None:
    folder = exported(TASK).folder
    other = altered(folder, padded_tokens_zeroed, tmp_path / "other.onnx")
    assert compared(folder, other)["values"]["differing"] == []


def test_the_forms_of_a_bundle_agree(exported: Callable[..., Export]) -> None:
    fused = exported(TASK, "--optimize=fused").folder
    document = compared(fused / "model.onnx", fused / "model.ort.onnx")
    operators = document["second"]["operators"]
    assert operators["com.microsoft.MultiHeadAttention"] == {"0": 1, "1": 1}
    assert sum(operators["com.microsoft.SkipLayerNormalization"].values()) == 4  # 2 a layer
    assert sum(operators["com.microsoft.EmbedLayerNormalization"].values()) == 1
    assert (document["values"]["differing"], document["values"]["other_shape"]) == ([], 0)
    packed = exported(TASK, "--optimize=packed").folder
    values = compared(packed / "model.onnx", packed / "model.ort.onnx")["values"]
    assert (values["differing"], values["other_shape"] > 20) == ([], True)


def test_files_outside_any_bundle_need_feeds(exported: Callable[..., Export], tmp_path: Path) -> None:
    folder = exported(TASK).folder
    path = tmp_path / "alone.onnx"
    shutil.copy(folder / "model.onnx", path)
    assert compared(path, path)["values"] is None
    assert "Give --feeds." in " ".join(inspect(path, path).stdout.split())
    np.savez(tmp_path / "feeds.npz", input_ids=np.array([[0, 7, 2]]), attention_mask=np.ones((1, 3), dtype=np.int64))
    values = compared(path, path, "--feeds", tmp_path / "feeds.npz")["values"]
    assert values["outputs"][0]["shape"] == [1, 3, 5]


# The rules for numbers, on graphs of a few nodes

ONES = {"x": np.ones((2, 3), np.float32)}


def model(*lines: str, output: str = "y") -> ir.Model:
    return model_from_text(f"g (float[B, 3] x) => (float[B, 3] {output}) {{ {' '.join(lines)} }}")


def constant(name: str, value: float | str) -> str:
    return f"{name} = Constant <value_float = {value}> ()"


def test_the_order_is_that_of_the_first_graph_and_other_shapes_are_counted() -> None:
    first = model("z = Neg(x)", "a = Neg(x)", "n = Neg(x)", "s = Add(z, a)", "y = Add(s, n)")
    second = model("n = Neg(x)", "a = Abs(x)", "z = Abs(x)", "s = ReduceSum(a)", "y = Add(z, n)")
    values = compare_values(first, second, ONES)
    assert [row.name for row in values.differing] == ["z", "a", "y"]
    assert (values.compared, values.other_shape) == (4, 1)
    assert (values.differing[0].difference, values.differing[0].reach) == (2.0, 1.0)
    assert [(row.name, row.difference) for row in values.outputs] == [("y", 3.0)]


def test_the_ways_of_masking_are_the_same() -> None:
    scores = [constant("hidden", "-1.0"), "m = Equal(x, hidden)", constant("low", "-3.4e38")]
    feeds = {"x": np.array([[1, -1, 2], [-1, 5, -1]], np.float32)}
    lowest = model(*scores, "y = Where(m, low, x)")
    infinite = model(*scores, constant("zero", 0.0), "inf = Div(low, zero)", "y = Where(m, inf, x)")
    assert compare_values(lowest, infinite, feeds).outputs[0].difference == 0.0
    shifted = model(*scores, constant("little", "0.01"), "s = Add(x, little)", "y = Where(m, low, s)")
    row = compare_values(lowest, shifted, feeds).outputs[0]
    assert row.difference == pytest.approx(0.01, rel=1e-4)
    assert row.reach == pytest.approx(5.01)


def test_a_value_that_is_not_finite_in_one_graph_differs() -> None:
    zero = constant("zero", 0.0)
    finite = model(zero, "y = Add(x, zero)")
    for operator in ("r = Div(zero, zero)", "r = Div(x, zero)"):
        broken = model(zero, operator, "y = Add(x, r)")
        (row,) = compare_values(finite, broken, ONES).differing
        assert (row.name, row.difference) == ("y", None)
        assert compare_values(broken, broken, ONES).differing == ()


def test_a_difference_that_later_values_undo_is_told_from_one_that_stays() -> None:
    plain = model("h = Neg(x)", "k = Abs(h)", "y = Neg(h)")
    quarter = [constant("q", 0.25), constant("f", 4.0), "n = Neg(x)", "h = Mul(n, q)", "k = Abs(h)", "m = Neg(h)"]
    values = compare_values(plain, model(*quarter, "y = Mul(m, f)"), ONES)
    assert [row.name for row in values.absorbed] == ["h"]
    assert [row.name for row in values.differing] == ["k"]
    values = compare_values(plain, model(*quarter, "y = Identity(m)"), ONES)
    assert [row.name for row in values.differing] == ["h", "k", "y"]
    assert values.absorbed == ()


# Refusals


def test_what_cannot_be_compared_is_refused(exported: Callable[..., Export], tmp_path: Path) -> None:
    folder = exported(TASK).folder
    alone = tmp_path / "alone.onnx"
    shutil.copy(folder / "model.onnx", alone)
    (tmp_path / "garbage.onnx").write_bytes(b"no graph at all")
    (tmp_path / "garbage.npz").write_bytes(b"no arrays")
    np.savez(tmp_path / "short.npz", input_ids=np.array([[0, 2]]))
    np.savez(tmp_path / "text.npz", input_ids=np.array([["a"]]), attention_mask=np.ones((1, 1), dtype=np.int64))
    cases: list[tuple[list[object], int, str]] = [
        ([folder, tmp_path / "nowhere"], ManifestError.exit_code, "rpln-export"),
        ([folder, tmp_path / "nowhere.onnx"], GraphError.exit_code, "nowhere.onnx cannot be read"),
        ([folder, tmp_path / "garbage.onnx"], GraphError.exit_code, "garbage.onnx cannot be read"),
        ([folder, folder, "--feeds", tmp_path / "garbage.npz"], InputError.exit_code, "Expected an .npz file"),
        ([folder, folder, "--feeds", tmp_path / "nowhere.npz"], InputError.exit_code, "Expected an .npz file"),
        ([folder, folder, "--feeds", tmp_path / "short.npz"], InputError.exit_code, "attention_mask besides input_ids"),
        ([folder, folder, "--feeds", tmp_path / "text.npz"], InputError.exit_code, "does not take these inputs"),
        ([alone, alone, "--text", "a"], InputError.exit_code, "neither graph lies in a bundle"),
        ([folder, folder, "--text", "dog " * 80], InputError.exit_code, "take at most 64"),
        ([folder, "--text", "a"], USAGE, "OTHER"),
        ([folder, folder, "--text", "a", "--feeds", tmp_path / "short.npz"], USAGE, "--text and --feeds"),
    ]
    for arguments, code, says in cases:
        result = inspect(*arguments)
        assert (result.exit_code, says in result.stderr) == (code, True), (arguments, result.output)


def test_a_graph_that_the_cpu_cannot_run_is_refused() -> None:
    unknown = model("y = Neg(x)")
    unknown.opset_imports["com.example"] = 1
    node = next(iter(unknown.graph))
    node.domain = "com.example"
    with pytest.raises(GraphError, match="does not run on the CPU"):
        compare_values(unknown, unknown, ONES)
