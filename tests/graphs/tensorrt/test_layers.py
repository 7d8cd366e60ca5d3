"""What is read of an engine's kernels: from a log of TensorRT-RTX, and from inspectors of TensorRT 10 and 11.

The log is an excerpt of what 1.7.1 wrote for a token classifier in fp16 with two layers, compiled for two profiles, the
second for one token. The inspections have the form that NVIDIA's issues show; no engine was loaded for them.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from rpln_graphs.tensorrt.layers import DTYPES, layers_from_inspection, layers_from_log
from rpln_runtime.engines.manifest import Layer

LOG = Path(__file__).parent / "data" / "tensorrt_rtx_1.7.1.log"
ATTENTION = "encoder.layer.0.attention.self"


@pytest.fixture(scope="module")
def layers() -> dict[str, Layer]:
    found = layers_from_log(LOG.read_text(encoding="utf-8"))
    return {layer.name: layer for layer in found}


def test_every_kernel_of_the_log_is_read_and_nothing_else(layers: dict[str, Layer]) -> None:
    lines = LOG.read_text(encoding="utf-8").splitlines()
    assert len(layers) == sum(line.startswith("Name: ") for line in lines) == 11
    assert {layer.kind for layer in layers.values()} == {"shape_call", "kgen", "gemm", "runtime_fusion"}


def test_a_kernel_with_all_there_is(layers: dict[str, Layer]) -> None:
    assert layers["_gemm_mha_v2_myl0_10"] == Layer(
        name="_gemm_mha_v2_myl0_10",
        kind="kgen",
        nodes=(
            f"{ATTENTION}.MatMul_1",
            f"{ATTENTION}.Softmax.float16.Cast",
            f"{ATTENTION}.Softmax",
            f"{ATTENTION}.Add",
            f"{ATTENTION}.Mul.float.Cast",
            f"{ATTENTION}.Mul",
            f"{ATTENTION}.MatMul",
        ),
        inputs=("float16", "float16", "float32", "float16"),
        outputs=("float16",),
        profile=0,
    )


def test_constants_are_inputs(layers: dict[str, Layer]) -> None:
    # The inputs are two operands, and the factors alpha and beta.
    (product,) = (layer for layer in layers.values() if layer.name.startswith(f"{ATTENTION}.MatMul ["))
    assert (product.kind, product.inputs, product.outputs) == (
        "gemm",
        ("float16", "float16", "float32", "float32"),
        ("float16",),
    )


def test_merged_products_are_one_kernel(layers: dict[str, Layer]) -> None:
    (merged,) = (layer for layer in layers.values() if "+" in layer.name)
    assert set(merged.nodes) == {f"{ATTENTION}.{part}.MatMul" for part in ("query", "key", "value")}


def test_a_kernel_without_tensors_and_nodes(layers: dict[str, Layer]) -> None:
    empty = layers["__mye8619_0_myl0_0"]
    assert (empty.nodes, empty.inputs, empty.outputs) == ((), (), ())


def test_types_are_numpys(layers: dict[str, Layer]) -> None:
    assert layers["__myl_MoveEqlNotCast_myl0_1"].inputs == ("int64",)
    assert layers["__myl_SlicReshTranReshCast_myl0_27"].outputs == ("float32",)
    assert set(DTYPES.values()) >= {dtype for layer in layers.values() for dtype in (*layer.inputs, *layer.outputs)}


def test_kernels_inside_belong_to_the_profile_of_those_at_the_edge(layers: dict[str, Layer]) -> None:
    inside = layers["__myl_Slic_myl1_8"]
    lines = LOG.read_text(encoding="utf-8").splitlines()
    assert not any("[profile" in line for line in lines if line.startswith("Name: __myl_Slic_myl1_8,"))
    assert inside.profile == 1
    assert {name: layer.profile for name, layer in layers.items()} == {name: int("_myl1_" in name) for name in layers}


def test_a_log_without_kernels_has_none() -> None:
    assert layers_from_log("Layers:\nEngine generation completed in 1 seconds.\n") == ()


# -- inspectors --------------------------------------------------------------------------------------------------------


def inspection(tensor: Any) -> Any:
    """Return an inspection of two profiles. `tensor` writes a tensor's name and type as a version of TensorRT does."""
    return json.loads(
        json.dumps(
            {
                "Layers": [
                    {
                        "Name": "q.MatMul+k.MatMul_myl0_1",
                        "LayerType": "gemm",
                        "Inputs": [tensor("x", "Half")],
                        "Outputs": [tensor("__mye1", "Half")],
                        "TacticName": "sm80_xmma_gemm_f16f16_f16f16_f16_nn_n",
                        "StreamId": 0,
                        "Metadata": "[ONNX Layer: q.MatMul]\x1f[ONNX Layer: k.MatMul]",
                    },
                    {
                        "Name": "__myl_Cast_myl0_2",
                        "LayerType": "kgen",
                        "Inputs": [tensor("__mye1", "BFloat16"), tensor("mask", "Int64"), tensor("seen", "Bool")],
                        "Outputs": [tensor("y", "Float")],
                        "Metadata": "",
                    },
                    {
                        "Name": "q.MatMul [profile 1]_myl1_1",
                        "LayerType": "gemm",
                        "Inputs": [tensor("x [profile 1]", "Half")],
                        "Outputs": [tensor("__mye2", "Half")],
                        "Metadata": "[ONNX Layer: q.MatMul]",
                    },
                    {
                        "Name": "__myl_Move_myl1_2",
                        "LayerType": "kgen",
                        "Inputs": [tensor("__mye2", "Half")],
                        "Outputs": [tensor("__mye3", "Half")],
                    },
                ],
                "Bindings": ["x", "mask", "seen", "y"],
            }
        )
    )


SENTENCES = {
    "Half": "Row major linear FP16 format",
    "Float": "Row major linear FP32",
    "BFloat16": "Row major linear BF16 format",
    "Int64": "Row major Int64 format.",
    "Bool": "Row major linear BOOL format",
}
STRIDES = {name: f"{name}(64,1:8,1)" for name in SENTENCES}


@pytest.mark.parametrize(
    "tensor",
    [
        lambda name, dtype: {"Name": name, "Location": "Device", "Dimensions": [1, -1], "Format/Datatype": dtype},
        lambda name, dtype: {"Name": name, "Dimensions": [1, -1], "Format/Datatype": SENTENCES[dtype]},
        lambda name, dtype: {"Name": name, "Dimensions": [1, -1], "Format/Datatype": STRIDES[dtype]},
        lambda name, dtype: {"Name": name, "Datatype": dtype, "Format": "(Linear) Row major linear format"},
    ],
    ids=["10: a word", "10: a sentence", "10: a word and strides", "11"],
)
def test_an_inspection_is_read(tensor: Any) -> None:
    found = layers_from_inspection(inspection(tensor))
    assert found == (
        Layer(
            name="q.MatMul+k.MatMul_myl0_1",
            kind="gemm",
            nodes=("q.MatMul", "k.MatMul"),
            inputs=("float16",),
            outputs=("float16",),
            profile=0,
        ),
        Layer(
            name="__myl_Cast_myl0_2",
            kind="kgen",
            nodes=(),
            inputs=("bfloat16", "int64", "bool"),
            outputs=("float32",),
            profile=0,
        ),
        Layer(
            name="q.MatMul [profile 1]_myl1_1",
            kind="gemm",
            nodes=("q.MatMul",),
            inputs=("float16",),
            outputs=("float16",),
            profile=1,
        ),
        Layer(name="__myl_Move_myl1_2", kind="kgen", nodes=(), inputs=("float16",), outputs=("float16",), profile=1),
    )


def test_a_type_that_is_not_told_stays_what_the_inspector_says() -> None:
    # TensorRT 10 writes this for the tensors of layers that Myelin does not compile.
    unknown = "N/A due to dynamic shapes"
    document = inspection(lambda name, _: {"Name": name, "Format/Datatype": unknown})
    assert layers_from_inspection(document)[0].inputs == (unknown,)


def test_constants_of_an_inspection_are_inputs() -> None:
    document = inspection(lambda name, dtype: {"Name": name, "Datatype": dtype})
    document["Layers"][0]["Constants"] = [{"Name": "w", "Datatype": "Float"}]
    assert layers_from_inspection(document)[0].inputs == ("float16", "float32")
