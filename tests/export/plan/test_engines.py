"""The options of engines: every choice is checked before any work, and a refusal says why and what to do."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from rpln_export.cli import export_command
from rpln_export.errors import PlanError
from rpln_export.plan import engines as engine_plans
from rpln_export.plan.engines import (
    EnginePlan,
    EngineRequest,
    _installed,
    make_engine_plan,
)
from rpln_export.plan.profiles import check_profiles, profile_from_text, profiles_of_graph, reason_not_compiled
from rpln_graphs.recipes import RECIPES
from rpln_graphs.tensorrt.backends import BACKENDS, EngineOptions
from rpln_runtime.engines.manifest import Profile, Range
from rpln_runtime.errors import MissingExtraError
from rpln_runtime.manifest import Axis, Graph, TensorSpec
from tests.export.checkpoints import USABLE_LENGTH, make_checkpoint
from tests.tensorrt import NEEDS_TENSORRT_RTX

RTX = BACKENDS["tensorrt-rtx"]
USAGE = 2
FOR_CPUS = [name for name, recipe in RECIPES.items() if recipe.quantizes and not recipe.lowers]
COMPILED = [name for name in RECIPES if name not in FOR_CPUS]


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put an empty module in the place of TensorRT-RTX. A plan only needs that it can be imported."""
    monkeypatch.setitem(sys.modules, RTX.module, ModuleType(RTX.module))


def plan_of(name: str = "tensorrt-rtx", precision: str = "fp16", **details: Any) -> EnginePlan:
    return make_engine_plan(EngineRequest(name=name, **details), precision=precision)


def refusal(name: str = "tensorrt-rtx", precision: str = "fp16", **details: Any) -> str:
    with pytest.raises(PlanError) as refused:
        plan_of(name, precision, **details)
    return str(refused.value)


DETAILS: list[dict[str, Any]] = [
    {"gpus": ["sm89"]},
    {"profiles": ["batch=1"]},
    {"options": EngineOptions(verbose=True)},
    {"options": EngineOptions(workspace=1)},
]


# -- which TensorRT ----------------------------------------------------------------------------------------------------


def test_an_unknown_builder_is_refused_with_those_there_are() -> None:
    assert refusal("openvino") == ("unknown --engine 'openvino': choose one of auto, none, tensorrt, tensorrt-rtx.")


def test_none_builds_nothing() -> None:
    plan = plan_of("none")
    assert (plan.backend, plan.required, plan.why_not) == (None, False, "none was asked for (--engine none)")


@pytest.mark.parametrize("details", DETAILS)
def test_engine_none_is_refused_with_details(details: dict[str, Any]) -> None:
    assert "--engine none builds no engines" in refusal("none", **details)


def install(monkeypatch: pytest.MonkeyPatch, *modules: str, gpu: str | None = None) -> None:
    """Let --engine auto look at a machine that has these packages, with or without a GPU."""
    monkeypatch.setattr(engine_plans, "_installed", _installed)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name in modules else None)
    monkeypatch.setattr(engine_plans, "device_target", lambda: gpu)


@pytest.mark.parametrize(
    ("modules", "gpu", "chosen"),
    [
        ((), None, None),
        ((), "sm89", None),
        (("tensorrt_rtx",), None, "tensorrt-rtx"),
        (("tensorrt_rtx",), "sm89", "tensorrt-rtx"),
        (("tensorrt",), None, None),
        (("tensorrt",), "sm89", "tensorrt"),
        (("tensorrt", "tensorrt_rtx"), None, "tensorrt-rtx"),
        (("tensorrt", "tensorrt_rtx"), "sm89", "tensorrt"),
    ],
)
def test_auto_takes_the_builder_that_can_build_here(
    monkeypatch: pytest.MonkeyPatch, modules: Sequence[str], gpu: str | None, chosen: str | None
) -> None:
    install(monkeypatch, *modules, gpu=gpu)
    plan = plan_of("auto")
    assert (plan.backend and plan.backend.name) == chosen
    assert not plan.required
    if chosen is None:
        assert plan.why_not == f"no TensorRT is installed. To build engines: {RTX.install}"


@pytest.mark.parametrize("details", DETAILS)
def test_auto_does_not_drop_details(monkeypatch: pytest.MonkeyPatch, details: dict[str, Any]) -> None:
    install(monkeypatch)
    assert RTX.install in refusal("auto", **details)
    install(monkeypatch, "tensorrt_rtx")
    plan = plan_of("auto", **details)
    assert (plan.backend, plan.required) == (RTX, True)


@NEEDS_TENSORRT_RTX
def test_auto_finds_the_installed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_plans, "_installed", _installed)
    monkeypatch.setattr(engine_plans, "device_target", lambda: None)
    assert plan_of("auto").backend == RTX


@pytest.mark.parametrize("name", BACKENDS)
def test_what_is_asked_for_by_name_must_be_installed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, BACKENDS[name].module, None)
    with pytest.raises(MissingExtraError, match=rf'pip install "rpln-export\[{name}\]"$'):
        plan_of(name)


# -- GPUs --------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("rtx")
def test_targets_are_those_asked_for_or_the_default_ones() -> None:
    assert plan_of().targets == ("sm80", "sm86", "sm89", "sm120")
    assert plan_of(gpus=["SM89", "sm80", "sm89"]).targets == ("sm89", "sm80")
    assert plan_of().required


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("gpu", ["sm90", "sm100", "rtx4090", "89"])
def test_other_gpus_are_refused(gpu: str) -> None:
    message = refusal(gpus=["sm89", gpu])
    assert f"--gpu {gpu}, only for sm75, sm80, sm86, sm89, sm120, sm121." in message
    assert "--engine tensorrt " in message


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("precision", COMPILED)
def test_turing_takes_only_fp16(precision: str) -> None:
    if precision == "fp16":
        assert plan_of(precision=precision, gpus=["sm75"]).targets == ("sm75",)
        return
    message = refusal(precision=precision, gpus=["sm75", "sm89"])
    reason = "from compute capability 8.9 on" if precision == "fp8" else "GPUs of compute capability 7.5 have no kernel"
    for fact in (f"{precision} engines for --gpu sm75", reason, "--fp16"):
        assert fact in message


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("precision", FOR_CPUS)
def test_no_engines_are_built_of_int8_for_cpus(precision: str) -> None:
    plan = plan_of("auto", precision)
    assert (plan.backend, plan.required) == (None, False)
    assert plan.why_not == f"{precision} graphs are written for CPUs, and TensorRT does not take them"
    for details in DETAILS:
        assert "--int8 --target tensorrt" in refusal("auto", precision, **details)
    assert refusal("tensorrt-rtx", precision) == (
        f"{precision} graphs are written for CPUs, and TensorRT does not take them. Leave out the options of engines, "
        "or export with --fp16, --int8 --target tensorrt or --int4 --target tensorrt. Encoders can also be exported "
        "with --fp8."
    )


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("precision", COMPILED)
def test_the_default_targets_are_those_that_have_the_precision(precision: str) -> None:
    expected = ("sm89", "sm120") if precision == "fp8" else RTX.default_targets
    assert plan_of(precision=precision).targets == expected


def test_tensorrt_builds_for_the_gpu_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    monkeypatch.setattr(engine_plans, "device_target", lambda: None)
    message = refusal("tensorrt")
    for fact in ("its driver or cuda-python is missing", "rpln doctor", "--engine tensorrt-rtx"):
        assert fact in message
    monkeypatch.setattr(engine_plans, "device_target", lambda: "sm90")
    assert plan_of("tensorrt").targets == plan_of("tensorrt", gpus=["sm90"]).targets == ("sm90",)
    message = refusal("tensorrt", gpus=["sm89"])
    assert "the GPU of this machine, sm90," in message
    assert message.endswith("Leave out --gpu.")
    assert plan_of("tensorrt", "fp8").targets == ("sm90",)


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("option", RTX.lacks)
def test_what_a_builder_lacks_is_refused_with_its_reason(option: str) -> None:
    message = refusal(options=EngineOptions(**{option: True}))
    for fact in (f"--{option.replace('_', '-')}", RTX.lacks[option], "--engine tensorrt "):
        assert fact in message


def test_tensorrt_has_every_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    monkeypatch.setattr(engine_plans, "device_target", lambda: "sm90")
    options = EngineOptions(
        version_compatible=True, hardware_compatible=True, strip_weights=True, workspace=2**28, verbose=True
    )
    assert set(options.asked_for) == {*RTX.lacks, "verbose"}
    assert plan_of("tensorrt", options=options).options == options


# -- profiles ----------------------------------------------------------------------------------------------------------

AXES = st.sampled_from(["batch", "choices", "sequence", "past_sequence", "encoder_sequence", "batch*choices"])
SIZES = st.tuples(*[st.integers(0, 10**6)] * 3)


@given(profile=st.dictionaries(AXES, SIZES, min_size=1), space=st.sampled_from(["", " ", "  "]))
def test_a_profile_is_what_its_text_says(profile: dict[str, tuple[int, int, int]], space: str) -> None:
    ranges = {axis: Range(minimum=one, optimum=two, maximum=three) for axis, (one, two, three) in profile.items()}
    text = f"{space},{space}".join(f"{axis}={sizes}" for axis, sizes in ranges.items())
    assert profile_from_text(text) == ranges


@given(axis=AXES, size=st.integers(0, 10**6))
def test_one_number_stands_for_all_three(axis: str, size: int) -> None:
    assert profile_from_text(f"{axis}={size}") == profile_from_text(f"{axis}={size}:{size}:{size}")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", ""),
        ("batch", "batch"),
        ("batch=", "batch="),
        ("batch=1:2", "batch=1:2"),
        ("batch=1:2:3:4", "batch=1:2:3:4"),
        ("batch=-1", "batch=-1"),
        ("batch=1.5", "batch=1.5"),
        ("batch=1:8:32,", ""),
        ("batch=1,sequence=many", "sequence=many"),
        ("batch=١", "batch=١"),  # noqa: RUF001 # a digit, and none of ASCII's
        ("input ids=1", "input ids=1"),
        ("batch:1", "batch:1"),
        ("batch=1000000000", "batch=1000000000"),
    ],
)
def test_a_text_that_is_no_profile_is_refused(text: str, part: str) -> None:
    with pytest.raises(PlanError) as refused:
        profile_from_text(text)
    for fact in (f"--profile {text!r}", f"{part!r} is not a range", "AXIS=MINIMUM:TUNED:MAXIMUM"):
        assert fact in str(refused.value)


def test_an_axis_has_one_range_a_profile() -> None:
    with pytest.raises(PlanError) as refused:
        profile_from_text("batch=1,sequence=2,batch=3")
    assert "--profile 'batch=1,sequence=2,batch=3' names batch twice" in str(refused.value)


@given(text=st.text(max_size=40))
def test_any_text_is_a_profile_or_refused(text: str) -> None:
    try:
        profile = profile_from_text(text)
    except PlanError:
        return
    assert profile
    assert all(isinstance(sizes, Range) for sizes in profile.values())


GRAPH = Graph(
    variant="full",
    path="model.onnx",
    opset=20,
    inputs=(TensorSpec(name="input_ids", dtype="int64", shape=("batch", "sequence")),),
    outputs=(TensorSpec(name="logits", dtype="float32", shape=("batch", "sequence", 5)),),
)
ENCODER = Graph(
    variant="encoder",
    path="encoder.onnx",
    opset=20,
    inputs=(TensorSpec(name="input_ids", dtype="int64", shape=("batch", "encoder_sequence")),),
    outputs=(TensorSpec(name="last_hidden_state", dtype="float32", shape=("batch", "encoder_sequence", 32)),),
)
LIMITS = {
    name: Axis(minimum=1, maximum=None if name == "batch" else 64) for name in ("batch", "sequence", "encoder_sequence")
}


def profiles_of(*texts: str) -> list[Profile]:
    return [profile_from_text(text) for text in texts]


def test_profiles_for_axes_that_no_graph_has_are_refused() -> None:
    check_profiles(profiles_of("batch=1", "encoder_sequence=8"), [GRAPH, ENCODER], LIMITS)
    with pytest.raises(PlanError) as refused:
        check_profiles(profiles_of("batch=1", "seqence=8"), [GRAPH], LIMITS)
    assert "'seqence', which is no axis" in str(refused.value)
    assert str(refused.value).endswith("batch, sequence.")
    with pytest.raises(PlanError) as refused:
        check_profiles(profiles_of("input_ids=8"), [GRAPH], LIMITS)
    assert "'input_ids', which is an input" in str(refused.value)
    assert str(refused.value).endswith("batch, sequence.")


def test_a_graph_gets_each_profile_once() -> None:
    def texts(profiles: Sequence[Profile]) -> list[dict[str, str]]:
        return [{axis: str(sizes) for axis, sizes in profile.items()} for profile in profiles]

    assert texts(profiles_of_graph(profiles_of(), GRAPH, LIMITS)) == [{"batch": "1:4:8", "sequence": "1:64:64"}]
    # The two profiles differ only in an axis that this graph does not have.
    several = profiles_of("batch=1", "batch=1,encoder_sequence=3", "sequence=9,batch=2")
    assert texts(profiles_of_graph(several, GRAPH, LIMITS)) == [
        {"batch": "1:1:1", "sequence": "1:64:64"},
        {"batch": "2:2:2", "sequence": "9:9:9"},
    ]
    with pytest.raises(PlanError, match=r"sequence=65:65:65.*model\.onnx.* 64"):
        profiles_of_graph(profiles_of("batch=1", "sequence=65"), GRAPH, LIMITS)


def test_some_graphs_are_not_compiled_and_the_reason_is_given() -> None:
    assert reason_not_compiled([GRAPH, ENCODER]) is None
    one = Graph(variant="with-past", path="model.onnx", opset=20, inputs=GRAPH.inputs, outputs=GRAPH.outputs)
    assert "--variants prefill,decode" in str(reason_not_compiled([GRAPH, one]))
    masked = TensorSpec(name="logits", dtype="float32", shape=("masked_tokens", 5))
    two = Graph(variant="full", path="model.onnx", opset=20, inputs=GRAPH.inputs, outputs=(masked,))
    reason = reason_not_compiled([two])
    assert reason is not None
    for fact in ("masked_tokens in logits depends on values", "--logits positions"):
        assert fact in reason
    sums = TensorSpec(name="attentions.0", dtype="float32", shape=("batch*sequence", 2, "batch + sequence", 3))
    three = Graph(variant="full", path="model.onnx", opset=20, inputs=GRAPH.inputs, outputs=(sums,))
    assert reason_not_compiled([three]) is None


# -- the command line --------------------------------------------------------------------------------------------------


def refused_export(tmp_path: Path, checkpoint: Path, *options: str) -> Result:
    """Run an export that fails before anything is traced, and check that it leaves nothing."""
    result = CliRunner().invoke(export_command, [str(checkpoint), "-o", str(tmp_path / "out"), *options])
    assert result.exit_code == USAGE, result.output
    assert result.stdout == ""
    assert not (tmp_path / "out").exists()
    return result


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("tagger"), "token-classification")


@pytest.mark.usefixtures("rtx", "_never_traced")
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--engine", "trt"], "unknown --engine 'trt'"),
        (["--engine", "none", "--gpu", "sm89"], "--engine none builds no engines"),
        (["--gpu", "sm75"], "no TensorRT is installed to build an engine"),
        (["--engine", "tensorrt-rtx", "--gpu", "sm90"], "does not build for --gpu sm90, only for sm75"),
        (["--engine", "tensorrt-rtx", "--gpu", "sm75"], "fp32 engines for --gpu sm75"),
        (["--engine", "tensorrt-rtx", "--gpu", "sm75", "--bf16"], "bf16 engines for --gpu sm75"),
        (["--engine", "tensorrt-rtx", "--profile", "batch=1:2"], "'batch=1:2' is not a range"),
        (["--engine", "tensorrt-rtx", "--profile", "past_sequence=1"], "The axes are batch, sequence."),
        (
            ["--engine", "tensorrt-rtx", "--profile", "batch=2:1:3"],
            "batch=2:1:3",
        ),
        (["--engine", "tensorrt-rtx", "--strip-weights"], "tensorrt-rtx does not offer --strip-weights"),
        (["--engine", "tensorrt-rtx", "--workspace", "0"], "--workspace is 0 MiB, which is not in the range 1 to"),
        (
            ["--engine", "tensorrt-rtx", "--profile", f"sequence={USABLE_LENGTH + 1}"],
            f"model.onnx takes at most {USABLE_LENGTH}",
        ),
    ],
)
def test_bad_options_are_refused_before_any_work(
    tmp_path: Path, tagger: Path, options: Sequence[str], says: str
) -> None:
    assert says in refused_export(tmp_path, tagger, *options).stderr


@pytest.fixture
def _never_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    def trace(*_: Any, **__: Any) -> None:
        raise AssertionError("traced before the options were checked")

    monkeypatch.setattr("rpln_export.pipeline.trace_model", trace)
    monkeypatch.setattr("rpln_export.checkpoint.loading.load_model", trace)


@pytest.mark.usefixtures("rtx", "_never_traced")
@pytest.mark.parametrize(("pad", "positions", "usable"), [(1, 40, 38), (0, 40, 39), (3, 40, 36)])
def test_the_table_of_positions_ends_where_padding_lets_it(
    tmp_path: Path, pad: int, positions: int, usable: int
) -> None:
    source = make_checkpoint(tmp_path / "checkpoint", "fill-mask", pad_token_id=pad, max_position_embeddings=positions)
    options = ["--engine", "tensorrt-rtx", "--profile", f"sequence={usable + 1}"]
    assert f"takes at most {usable} there" in refused_export(tmp_path, source, *options).stderr


@pytest.mark.usefixtures("rtx", "_never_traced")
@pytest.mark.parametrize(
    ("task", "options", "says"),
    [
        ("text-generation", ["--variants", "with-past"], "a graph each: --variants prefill,decode"),
        ("text-generation", ["--profile", "past_sequence=0:1:2"], "past_sequence=0:1:2: expected minimum"),
        ("text-generation", ["--profile", "encoder_sequence=1"], "The axes are batch, sequence, past_sequence."),
        ("fill-mask", ["--logits", "masked"], "use --logits positions"),
    ],
)
def test_graphs_that_cannot_be_compiled_are_refused(
    tmp_path: Path, task: str, options: Sequence[str], says: str
) -> None:
    source = make_checkpoint(tmp_path / "checkpoint", task)
    assert says in refused_export(tmp_path, source, "--engine", "tensorrt-rtx", *options).stderr


@pytest.mark.usefixtures("_never_traced")
@pytest.mark.parametrize("name", BACKENDS)
def test_a_missing_package_has_its_own_exit_code(
    tmp_path: Path, tagger: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, BACKENDS[name].module, None)
    result = CliRunner().invoke(export_command, [str(tagger), "-o", str(tmp_path / "out"), "--engine", name])
    assert result.exit_code == MissingExtraError.exit_code
    assert f'Run: pip install "rpln-export[{name}]"' in result.stderr


def test_fp8_gets_no_engine_where_the_gpu_at_hand_has_no_fp8(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = BACKENDS["tensorrt"]
    monkeypatch.setitem(sys.modules, backend.module, ModuleType(backend.module))
    monkeypatch.setattr(engine_plans, "_installed", lambda: backend)
    monkeypatch.setattr(engine_plans, "device_target", lambda: "sm80")
    plan = plan_of("auto", "fp8")
    reason = "tensorrt does not build fp8 engines for the GPU of this machine, sm80: GPUs compute in fp8 from"
    assert (plan.backend, plan.why_not.startswith(reason)) == (None, True)
    assert plan_of("auto", "int8-tensorrt").targets == ("sm80",)
    assert refusal("tensorrt", "fp8").startswith(reason)
