"""What goes with --int8 and --int4, and what is refused before any work, with what to do instead."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from rpln_export.cli import export_command
from rpln_export.errors import PlanError
from rpln_export.plan.engines import EngineRequest
from rpln_export.plan.export_plan import ExportPlan, make_plan
from rpln_export.plan.quantization import DEFAULT_AGREEMENT
from rpln_graphs.forms import INT8_FORMS, WEIGHTS_4_BLOCKS, WEIGHTS_8_COLUMNS
from rpln_graphs.passes.quantize_embeddings import QuantizeEmbeddings
from rpln_graphs.passes.quantize_weights import OPSET
from rpln_graphs.recipes import OPSET_OF_FP8, RECIPES
from rpln_graphs.tensorrt.backends import BACKENDS
from rpln_graphs.trace import DEFAULT_OPSET
from tests.export.checkpoints import make_checkpoint

ENCODER = "token-classification"
DECODER = "text-generation"
RTX = BACKENDS["tensorrt-rtx"]
Checkpoints = Callable[[str], Path]


@pytest.fixture
def plan(checkpoint: Checkpoints) -> Callable[..., ExportPlan]:
    """Return a function that plans the export of a task's checkpoint in int8, with other choices."""

    def plan(task: str = ENCODER, precision: str = "int8", **choices: object) -> ExportPlan:
        return make_plan(str(checkpoint(task)), precision=precision, **choices)  # type: ignore[arg-type]

    return plan


@pytest.fixture
def plan_of_wide(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ExportPlan]:
    """Return the same function for checkpoints whose weights are large enough for every kind of blocks."""

    def plan(task: str = ENCODER, precision: str = "int8", **choices: object) -> ExportPlan:
        folder = make_checkpoint(tmp_path_factory.mktemp(task), task, hidden_size=128)
        return make_plan(str(folder), precision=precision, **choices)  # type: ignore[arg-type]

    return plan


def command(*options: str) -> str:
    """Return what an export of the embedded tagger with these options says when it is refused."""
    result = CliRunner().invoke(export_command, [*options, "--engine", "none"])
    assert result.exit_code == 2, result.output
    return " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("options", "recipe"),
    [
        (["--int8"], "int8"),
        (["--int8", "auto"], "int8"),
        (["--int8", "static"], "int8-static"),
        (["--int8", "dynamic"], "int8-dynamic"),
        (["--int8", "weight-only"], "int8-weight-only"),
        (["--int4"], "int4"),
        (["--fp8"], "fp8"),
        (["--precision", "int8-static"], "int8-static"),
    ],
)
def test_options_name_recipes(monkeypatch: pytest.MonkeyPatch, options: list[str], recipe: str) -> None:
    made: list[str] = []

    def planned(*_: object, precision: str, **__: object) -> None:
        made.append(precision)
        raise PlanError("enough")

    monkeypatch.setattr("rpln_export.plan.export_plan.make_plan", planned)
    command(*options)
    assert made == [recipe]


@pytest.mark.parametrize(
    "options", [["--int8", "--fp16"], ["--int8", "static", "--precision", "fp32"], ["--int4", "--fp8"]]
)
def test_two_precisions_are_refused(options: list[str]) -> None:
    assert "--int8, --int4 and --fp8 all name a precision" in command(*options)


def test_another_kind_of_int8_is_refused() -> None:
    assert "'fast' is no kind of int8: choose one of auto, static, dynamic, weight-only" in command("--int8", "fast")


def test_forms_of_the_recipe_alone_may_be_named(plan: Callable[..., ExportPlan]) -> None:
    assert plan().form.name == "static"
    assert plan(precision="int8-dynamic").form.name == "dynamic"
    assert plan(optimize="dynamic-packed").form.name == "dynamic-packed"
    assert plan(precision="int8-static", optimize="static-packed").form.name == "static-packed"
    assert plan(pack_padding=True).form.name == "static-packed"
    for precision, form, named in (
        ("int8", "packed", "static-packed"),
        ("int8-static", "dynamic", "static-products"),
        ("fp32", "static", "packed"),
        ("int4", "weights-8", "weights-4"),
    ):
        with pytest.raises(PlanError, match=f"unknown --optimize '{form}': choose one of auto, none, .*{named}"):
            plan(precision=precision, optimize=form)


@pytest.mark.parametrize(
    ("precision", "target"),
    [
        ("int8", "cuda"),
        ("int8", "portable"),
        ("int8-dynamic", "tensorrt"),
        ("int8-weight-only", "cuda"),
        ("int4", "portable"),
        ("int8-weight-only-tensorrt", "cpu"),
        ("int4-tensorrt", "cuda"),
        ("int8-tensorrt", "cpu"),
        ("int8-tensorrt", "portable"),
        ("fp8", "cpu"),
        ("fp8", "cuda"),
    ],
)
def test_other_targets_than_the_precision_is_for_are_refused(
    plan_of_wide: Callable[..., ExportPlan], precision: str, target: str
) -> None:
    plan = plan_of_wide
    own = RECIPES[precision].target
    with pytest.raises(
        PlanError, match=f"{precision} does not go with --target {target}: its graphs are written for {own}"
    ):
        plan(precision=precision, target=target)
    assert plan(precision=precision, target=own).target.name == own


def test_embeddings_are_quantized_on_request_in_every_form(plan: Callable[..., ExportPlan]) -> None:
    for precision in ("int8", "int8-static", "int4"):
        asked, plain = (plan(precision=precision, quantize_embeddings=more).recipe.forms for more in (True, False))
        assert {name: form.passes for name, form in asked.items()} == {
            name: (*form.passes, QuantizeEmbeddings) for name, form in plain.items()
        }
    assert plan(precision="int4", optimize="weights-4", quantize_embeddings=True).form.passes[-1] is QuantizeEmbeddings
    assert "--quantize-embeddings goes with --int8 and --int4" in command("--quantize-embeddings", "--fp16")
    for precision in ("int8", "int4"):
        with pytest.raises(PlanError, match=rf"--quantize-embeddings goes with .* in {precision}-tensorrt"):
            plan(precision=precision, target="tensorrt", quantize_embeddings=True)


@pytest.mark.parametrize("precision", ["int8", "int8-static", "int8-tensorrt"])
def test_int8_for_tensorrt_is_symmetric_with_the_rest_in_fp16(
    plan: Callable[..., ExportPlan], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, RTX.module, ModuleType(RTX.module))
    for choices in ({"target": "tensorrt"}, {"engines": EngineRequest(name=RTX.name)}):
        planned = plan(precision=precision, **choices)
        assert (planned.recipe.name, planned.form.name) == ("int8-tensorrt", "static-symmetric")
        assert planned.target.name == "tensorrt"
    named = plan(precision=precision, engines=EngineRequest(name=RTX.name))
    assert (named.engines.backend, named.engines.required) == (RTX, True)


@pytest.mark.parametrize(
    ("task", "precision", "recipe"),
    [
        (DECODER, "int8", "int8-weight-only-tensorrt"),
        (DECODER, "int8-weight-only", "int8-weight-only-tensorrt"),
        (DECODER, "int4", "int4-tensorrt"),
        ("text2text-generation", "int4-tensorrt", "int4-tensorrt"),
        (ENCODER, "int8-weight-only", "int8-weight-only-tensorrt"),
        (ENCODER, "int4", "int4-tensorrt"),
    ],
)
def test_weights_for_tensorrt_are_laid_out_for_its_kernels(
    plan_of_wide: Callable[..., ExportPlan], monkeypatch: pytest.MonkeyPatch, task: str, precision: str, recipe: str
) -> None:
    plan = plan_of_wide
    (form,) = {**WEIGHTS_8_COLUMNS, **WEIGHTS_4_BLOCKS}.keys() & RECIPES[recipe].forms.keys()
    monkeypatch.setitem(sys.modules, RTX.module, ModuleType(RTX.module))
    for choices in ({"target": "tensorrt"}, {"engines": EngineRequest(name=RTX.name)}):
        planned = plan(task, precision, **choices)
        assert (planned.recipe.name, planned.form.name, planned.target.name) == (recipe, form, "tensorrt")
        # TensorRT compiles no graph that serves both prompts and steps.
        variants = [graph.variant.name for graph in planned.graphs if not graph.variant.standalone]
        assert variants == (["full"] if task == ENCODER else ["prefill", "decode"])
    assert plan(task, precision, target="tensorrt").opset == max(DEFAULT_OPSET, RECIPES[recipe].oldest_opset)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_gpu_that_unpacks_no_weights_is_refused(
    plan: Callable[..., ExportPlan], monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setitem(sys.modules, RTX.module, ModuleType(RTX.module))
    with pytest.raises(
        PlanError, match=r"for --gpu sm75: .* no kernels that multiply with weights of fewer bits\. Leave"
    ):
        plan(DECODER, precision, engines=EngineRequest(name=RTX.name, gpus=["sm75", "sm89"]))


@pytest.mark.parametrize("task", [ENCODER, DECODER, "text2text-generation"])
def test_a_network_whose_sizes_give_no_blocks_is_refused(plan: Callable[..., ExportPlan], task: str) -> None:
    reason = r"int4-tensorrt stores weights in blocks, and a hidden_size of 32 with an intermediate_size of 64"
    with pytest.raises(PlanError, match=reason):
        plan(task, "int4", target="tensorrt")
    assert plan(task, "int4").recipe.name == "int4"


def test_int8_stays_for_cpus_where_no_engine_is_asked_for(plan: Callable[..., ExportPlan]) -> None:
    assert plan().recipe.name == plan(engines=EngineRequest(name="none")).recipe.name == "int8"
    assert plan(DECODER, "int4", engines=EngineRequest(name="none")).recipe.name == "int4"
    with pytest.raises(PlanError, match="int8 graphs are written for CPUs, and TensorRT does not take them"):
        plan(target="cpu", engines=EngineRequest(name=RTX.name))


@pytest.mark.parametrize("precision", ["int8-tensorrt", "fp8"])
def test_types_for_tensorrt_are_for_encoders(plan: Callable[..., ExportPlan], precision: str) -> None:
    with pytest.raises(PlanError, match=f"{precision} is for encoders, but {DECODER} generates text"):
        plan(DECODER, precision)
    assert plan(DECODER, "int8").recipe.name == "int8-weight-only"


def test_fp8_needs_an_opset_that_has_it(plan: Callable[..., ExportPlan]) -> None:
    assert plan(precision="fp8", opset=OPSET_OF_FP8).opset == OPSET_OF_FP8
    with pytest.raises(PlanError, match=r"--opset 18 has no operator for the weights of fp8: .* 19"):
        plan(precision="fp8", opset=18)
    assert plan(precision="int8-tensorrt", opset=18).opset == 18


@pytest.mark.parametrize("precision", ["int8", "int8-tensorrt", "fp8", "int4-tensorrt"])
def test_types_of_inputs_stay_fp32(plan: Callable[..., ExportPlan], precision: str) -> None:
    with pytest.raises(PlanError, match="--io-dtype fp16 goes with --fp16"):
        plan(precision=precision, io_dtype="fp16")


@pytest.mark.parametrize("share", [-0.1, 1.01, float("nan")])
def test_an_agreement_that_is_no_share_is_refused(plan: Callable[..., ExportPlan], share: float) -> None:
    with pytest.raises(PlanError, match="is no share: give a number from 0 to 1"):
        plan(min_agreement=share)


def test_an_agreement_is_for_int8(plan: Callable[..., ExportPlan]) -> None:
    assert plan().gate.min_agreement == DEFAULT_AGREEMENT
    assert plan(min_agreement=1.0).gate.min_agreement == 1.0
    assert "--min-agreement goes with --int8" in command("--min-agreement", "0.9")


def test_a_metric_needs_data_and_a_number_of_points(plan: Callable[..., ExportPlan], tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    with pytest.raises(PlanError, match=r"data\.jsonl is no file\. --eval takes a file of examples"):
        plan(evaluation=data)
    data.touch()
    gate = plan(evaluation=data, max_drop=0.3).gate
    assert (gate.data, gate.max_drop, gate.min_agreement) == (data, 0.3, DEFAULT_AGREEMENT)
    with pytest.raises(PlanError, match=r"--max-drop asks about a metric, .* name them with --eval"):
        plan(max_drop=0.3)
    for points in (-0.1, float("nan")):
        with pytest.raises(PlanError, match="is no number of points: give one from 0 on"):
            plan(evaluation=data, max_drop=points)
    for option, value in (("--eval", str(data)), ("--max-drop", "0.3")):
        assert f"{option} goes with --int8, --int4 and --fp8" in command(option, value)


def test_decoders_get_weights_in_blocks(plan: Callable[..., ExportPlan]) -> None:
    planned = plan(DECODER)
    assert (planned.recipe.name, planned.form.name, planned.opset) == ("int8-weight-only", "weights-8", OPSET)
    assert plan(DECODER, "int4").form.name == "weights-4"
    for kind in ("static", "dynamic"):
        with pytest.raises(PlanError, match=rf"int8-{kind} is for encoders, .* generates text. Use --int8 weight-only"):
            plan(DECODER, f"int8-{kind}")


def test_weights_in_blocks_need_an_opset_that_has_them(plan: Callable[..., ExportPlan]) -> None:
    assert plan().opset == DEFAULT_OPSET
    assert plan(precision="int4", opset=OPSET + 1).opset == OPSET + 1
    with pytest.raises(PlanError, match=f"--opset {OPSET - 1} has no operator for the weights of int4: .* {OPSET}"):
        plan(precision="int4", opset=OPSET - 1)


def test_forms_that_do_not_pass_are_left_out_of_the_plan(plan: Callable[..., ExportPlan]) -> None:
    left = plan().with_forms(["dynamic", "static-products"])
    assert list(left.recipe.forms) == ["static-products", "static-products-packed", "dynamic", "dynamic-packed"]
    assert left.form is left.recipe.standard is INT8_FORMS["static-products"]
    assert plan(pack_padding=True).with_forms(["dynamic"]).form is INT8_FORMS["dynamic-packed"]
