"""The builder with TensorRT-RTX itself: what it builds, what it refuses, and that the table of it is true."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
import pytest

from rpln_graphs.errors import EngineError
from rpln_graphs.quantization.quantizers import FP8, INT8
from rpln_graphs.recipes import RECIPES
from rpln_graphs.tensorrt import builder
from rpln_graphs.tensorrt.backends import BACKENDS, EngineOptions
from rpln_graphs.tensorrt.builder import BuiltEngine, build_engine
from rpln_runtime.engines.profiles import Shapes
from rpln_runtime.engines.tensorrt.log import make_log
from rpln_runtime.errors import MissingExtraError
from tests.graphs.tensorrt.compiling import (
    RTX,
    SHAPES,
    UNPACKED,
    WIDE_SHAPES,
    attention,
    attention_of_few_bits,
    attention_shapes,
    compile_graph,
    quantized_attention,
)
from tests.graphs.text_graphs import model_from_text
from tests.tensorrt import NEEDS_TENSORRT_RTX, targets_of_plan

TYPES = {"fp32": "float", "fp16": "float16", "bf16": "bfloat16"}
"""ONNX's names of the types that recipes compute in."""
QUANTIZED_TYPES = {"int8-tensorrt": INT8, "fp8": FP8}
"""The types of products by recipe, in the recipes that quantize for TensorRT."""
SELF_MADE: Final = {("sm75", "int8-weight-only-tensorrt")}
"""What the table refuses although TensorRT builds it, because the engine is not what it should be (test_checks)."""

needs_rtx = NEEDS_TENSORRT_RTX


class Logs:
    """The logs of all builds of a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[Any] = []
        monkeypatch.setattr(builder, "make_log", self.make)

    def make(self, trt: Any, *, echo: bool = False) -> Any:
        self.made.append(make_log(trt, echo=echo))
        return self.made[-1]

    def said(self, severity: str) -> list[str]:
        return [text for name, text in self.made[-1].messages if name == severity]


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Logs:
    return Logs(monkeypatch)


# -- what is made ------------------------------------------------------------------------------------------------------


@needs_rtx
@pytest.mark.parametrize("recipe", TYPES)
def test_an_engine_computes_in_the_types_of_its_graph(tmp_path: Path, recipe: str) -> None:
    plan = compile_graph(attention(TYPES[recipe]), tmp_path)
    dtype = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[recipe]
    products = [layer for layer in plan.layers if "product" in layer.nodes]
    assert products
    # The factors alpha and beta of a product are in fp32 in every engine.
    assert all(layer.inputs[:2] == (dtype, dtype) for layer in products if layer.kind == "gemm")
    assert {name for layer in plan.layers for name in layer.inputs} <= {dtype, "float32"}
    assert {node for layer in plan.layers for node in layer.nodes} >= {"product", "scores", "softmax", "y"}


@needs_rtx
def test_a_plan_says_what_its_builder_says(tmp_path: Path, logs: Logs) -> None:
    import tensorrt_rtx

    plan = compile_graph(attention(), tmp_path, [SHAPES, attention_shapes(1, 1, 1)])
    assert plan.version == tensorrt_rtx.__version__
    assert f"Total Weights Memory: {plan.weights} bytes" in logs.made[0].text
    assert [f"Total Activation Memory: {size} bytes" in logs.made[0].text for size in plan.activations] == [True, True]
    assert {layer.profile for layer in plan.layers} == {0, 1}
    assert plan.seconds > 0
    assert plan.timings is None
    assert plan.data.nbytes > 1000


@needs_rtx
def test_the_same_graph_makes_the_same_engine(tmp_path: Path) -> None:
    first, second, other = (
        compile_graph(attention(dtype), tmp_path, targets=("sm80", "sm89"))
        for dtype in ("float16", "float16", "bfloat16")
    )
    for plan in (second, other):
        assert (plan.layers == first.layers) == (plan is second)
    assert (second.weights, second.activations) == (first.weights, first.activations)
    # The builder numbers some constants in the order of their addresses, so a few bytes differ from build to build.
    assert share_of_other_bytes(first, second) < 1e-3
    assert share_of_other_bytes(first, other) > 1e-1


def share_of_other_bytes(first: BuiltEngine, second: BuiltEngine) -> float:
    one, two = (np.frombuffer(plan.data, dtype=np.uint8) for plan in (first, second))
    return 1.0 if one.size != two.size else float(np.mean(one != two))


@needs_rtx
@pytest.mark.parametrize("targets", [("sm89",), ("sm75",), RTX.default_targets, RTX.targets], ids="-".join)
def test_a_plan_is_for_the_targets_that_were_asked_for(tmp_path: Path, targets: tuple[str, ...]) -> None:
    assert targets_of_plan(bytes(compile_graph(attention(), tmp_path, targets=targets).data)) == targets


@needs_rtx
def test_fp32_is_not_rounded_to_tf32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorrt_rtx

    configured: list[bool] = []
    original = builder._configure

    def configure(trt: Any, config: Any, options: EngineOptions) -> None:
        assert config.get_flag(tensorrt_rtx.BuilderFlag.TF32)  # NVIDIA's default
        original(trt, config, options)
        configured.append(config.get_flag(tensorrt_rtx.BuilderFlag.TF32))

    monkeypatch.setattr(builder, "_configure", configure)
    compile_graph(attention("float"), tmp_path)
    assert configured == [False]


@needs_rtx
def test_the_log_is_passed_to_stderr_when_asked_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    compile_graph(attention(), tmp_path)
    assert "[tensorrt_rtx " not in capfd.readouterr().err
    compile_graph(attention(), tmp_path, verbose=True)
    captured = capfd.readouterr()
    assert "[tensorrt_rtx INFO] " in captured.err
    assert "[tensorrt_rtx VERBOSE] Name: " in captured.err or "LayerType: gemm" in captured.err
    assert captured.out == ""


@needs_rtx
def test_a_workspace_bounds_what_kernels_may_use(tmp_path: Path) -> None:
    assert compile_graph(attention(), tmp_path, workspace=2**28).data.nbytes
    with pytest.raises(EngineError, match="no tactics to implement the operation within workspace limit"):
        compile_graph(attention(), tmp_path, workspace=2**10)


# -- what is refused ---------------------------------------------------------------------------------------------------


def refusal(model: ir.Model, folder: Path, profiles: Any, **choices: Any) -> str:
    with pytest.raises(EngineError) as refused:
        compile_graph(model, folder, profiles, **choices)
    message = str(refused.value)
    assert message.startswith("tensorrt_rtx ")
    assert " refuses model.onnx: " in message
    # A machine without a driver adds this to the log of every error, and it explains nothing.
    assert "cudaError" not in message
    return message


LINE: Mapping[str, Shapes] = dict.fromkeys(("x", "z"), ((1, 8), (2, 8), (4, 8)))


@needs_rtx
@pytest.mark.parametrize("operator", ["SkipLayerNormalization", "EmbedLayerNormalization", "BiasGelu", "FastGelu"])
def test_operators_of_onnx_runtime_are_refused(tmp_path: Path, operator: str) -> None:
    # The operators of the fused form. RTX 1.7 reads MultiHeadAttention and Gelu, but few others of com.microsoft.
    model = model_from_text("g (float16[n, 8] x, float16[n, 8] z) => (float16[n, 8] y) { y = Add (x, z) }")
    model.opset_imports["com.microsoft"] = 1
    (node,) = model.graph
    node.domain, node.op_type = "com.microsoft", operator
    message = refusal(model, tmp_path, [LINE])
    assert f"refuses model.onnx: {operator} y: " in message


@needs_rtx
def test_operands_of_two_types_are_refused(tmp_path: Path) -> None:
    model = model_from_text("g (float16[n, 8] x, float16[n, 8] z) => (float16[n, 8] y) { y = Add (x, z) }")
    model.graph.inputs[1].dtype = ir.DataType.FLOAT
    message = refusal(model, tmp_path, [LINE])
    assert "refuses model.onnx: Add y: " in message
    assert "must have same input types. But they are of types Half and Float" in message
    assert "\n" not in message


@needs_rtx
def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    path.write_text("no graph")
    with pytest.raises(EngineError, match=r"refuses text\.onnx: "):
        build_engine(path, [SHAPES], backend=RTX, targets=("sm89",), options=EngineOptions())


@needs_rtx
def test_a_log_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # This is as if an update of TensorRT changed the wording of its log.
    monkeypatch.setattr(builder, "layers_from_log", lambda _: ())
    with pytest.raises(EngineError, match=r"tensorrt.*\(rpln doctor\)"):
        compile_graph(attention(), tmp_path)


def test_a_package_that_is_missing_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in BACKENDS.values():
        monkeypatch.setitem(sys.modules, backend.module, None)
        with pytest.raises(MissingExtraError) as refused:
            backend.load()
        message = str(refused.value)
        assert message.startswith(f"{backend.name} is not installed (")
        assert message.endswith(f'Run: pip install "rpln-export[{backend.name}]"')


# -- the table ---------------------------------------------------------------------------------------------------------


@needs_rtx
@pytest.mark.parametrize("target", RTX.targets)
@pytest.mark.parametrize("recipe", [*TYPES, *QUANTIZED_TYPES, *UNPACKED])
def test_what_the_table_refuses_is_what_tensorrt_refuses(tmp_path: Path, target: str, recipe: str) -> None:
    shapes = WIDE_SHAPES if recipe in UNPACKED else SHAPES
    if recipe in UNPACKED:
        model = attention_of_few_bits(UNPACKED[recipe])
    else:
        model = quantized_attention(QUANTIZED_TYPES[recipe]) if recipe in QUANTIZED_TYPES else attention(TYPES[recipe])
    if (target, recipe) in RTX.refused.keys() - SELF_MADE:
        assert target in refusal(model, tmp_path, [shapes], targets=(target,)).lower()
    else:
        assert targets_of_plan(bytes(compile_graph(model, tmp_path, [shapes], targets=(target,)).data)) == (target,)


def test_the_table_has_every_recipe_for_tensorrt() -> None:
    assert {*QUANTIZED_TYPES, *UNPACKED} == {row.name for row in RECIPES.values() if row.target == "tensorrt"}


@needs_rtx
def test_the_table_has_every_target() -> None:
    import tensorrt_rtx

    members = tensorrt_rtx.ComputeCapability.__members__
    assert {name.lower() for name in members} - {"none", "current"} == set(RTX.targets)
    assert {target for target, _ in RTX.refused} | set(RTX.default_targets) <= set(RTX.targets)


@needs_rtx
@pytest.mark.parametrize(("option", "because"), [("version_compatible", "lean"), ("strip_weights", "Myelin")])
def test_options_that_the_table_lacks_fail_without_a_gpu(tmp_path: Path, option: str, because: str) -> None:
    assert option in RTX.lacks
    assert because in refusal(attention(), tmp_path, [SHAPES], **{option: True})


@needs_rtx
def test_tensorrt_rtx_ignores_hardware_compatibility(tmp_path: Path, logs: Logs) -> None:
    assert "hardware_compatible" in RTX.lacks
    plain = compile_graph(attention(), tmp_path)
    assert share_of_other_bytes(compile_graph(attention(), tmp_path, hardware_compatible=True), plain) < 1e-3
    assert "setHardwareCompatibilityLevel() is unsupported in TensorRT-RTX." in logs.said("WARNING")


# -- why profiles are checked before -----------------------------------------------------------------------------------


@needs_rtx
def test_tensorrt_itself_takes_positions_beyond_the_table(tmp_path: Path, logs: Logs) -> None:
    model = model_from_text(
        "g (float16[5, 8] table, int64[n] positions) => (float16[n, 8] y) { y = Gather (table, positions) }"
    )
    shapes: dict[str, Shapes] = {"table": ((5, 8), (5, 8), (5, 8)), "positions": ((1,), (5,), (500,))}
    compile_graph(model, tmp_path, [shapes])
    assert logs.said("ERROR") == []


@needs_rtx
def test_tensorrt_itself_ignores_an_input_that_is_not_there(tmp_path: Path, logs: Logs) -> None:
    plain = compile_graph(attention(), tmp_path)
    other = compile_graph(attention(), tmp_path, [{**SHAPES, "inptu_ids": ((1, 1), (1, 1), (1, 1))}])
    assert share_of_other_bytes(other, plain) < 1e-3
    assert logs.said("ERROR") == []
