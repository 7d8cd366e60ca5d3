"""Graphs are written as protobuf would, weight by weight, and the manifest's description of them is right."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.testing import assert_array_equal

from rpln_graphs import save
from rpln_graphs.errors import GraphError
from rpln_graphs.rewriting.initializers import initializer_from_array, transposed_initializer
from rpln_graphs.save import graph_from_model, precision_from_model, save_graph, weights_from_model
from rpln_runtime.manifest import TensorSpec
from tests.graphs.conftest import Traced
from tests.graphs.networks import copied
from tests.graphs.text_graphs import Arrays, model_from_text, run

SUM = "g (float[rows, 2] x) => (float[rows, 2] y) <float[2] bias = {1, 2.5}> { y = Add(x, bias) }"
FEEDS = {"x": np.array([[0.5, -1]], dtype=np.float32)}

# Lengths around the limits of what one, two and three bytes of a protobuf length can hold.
CONTENTS: Arrays = {
    "scalar": np.array(3.5, dtype=np.float32),
    "empty": np.zeros((0, 4), dtype=np.float32),
    "integers": np.arange(-3, 30),
    "truths": np.array([True, False]),
    "halves": np.linspace(-1, 1, 63).astype(np.float16),
    "brains": np.linspace(-1e30, 1e30, 65).astype(ml_dtypes.bfloat16),
    "thousands": np.arange(5000, dtype=np.float32).reshape(50, 100),
    "many": np.arange(600_000, dtype=np.float32).reshape(2, 300_000),
}


def with_initializers(model: ir.Model, contents: Arrays) -> ir.Model:
    """Return the graph with initializers that nothing reads."""
    for name, array in contents.items():
        model.graph.register_initializer(initializer_from_array(name, array))
    return model


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_onnx_reads_what_was_written(tmp_path: Path) -> None:
    model = with_initializers(model_from_text(SUM), CONTENTS)
    model.metadata_props["rpln.pass.Some"] = "1"
    told: list[tuple[int, int]] = []
    save_graph(model, tmp_path / "model.onnx", on_bytes=lambda done, total: told.append((done, total)))

    size = sum(array.nbytes for array in CONTENTS.values()) + 8  # the bias has two floats
    assert told == sorted(told)
    assert (told[-1], len(told)) == ((size, size), len(CONTENTS) + 1)
    read = onnx.load(tmp_path / "model.onnx")
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in read.graph.initializer}
    assert list(arrays) == ["bias", *CONTENTS]
    for name, array in CONTENTS.items():
        assert arrays[name].dtype == array.dtype
        assert arrays[name].shape == array.shape
        assert_array_equal(arrays[name], array, err_msg=name)
    whole = ir.to_proto(model)
    for proto in (read, whole):
        proto.graph.ClearField("initializer")
        proto.graph.ClearField("value_info")  # initializers know their types
    assert read == whole
    assert list(tmp_path.iterdir()) == [tmp_path / "model.onnx"]


def test_weights_that_are_computed_when_saved_are_computed(tmp_path: Path) -> None:
    model = model_from_text(SUM)
    weight = initializer_from_array("weight", np.arange(6, dtype=np.float32).reshape(2, 3))
    model.graph.register_initializer(transposed_initializer(weight, name="weight.T"))
    save_graph(model, tmp_path / "model.onnx")

    tensor = onnx.load(tmp_path / "model.onnx").graph.initializer[1]
    assert tensor.name == "weight.T"
    assert_array_equal(onnx.numpy_helper.to_array(tensor), [[0, 3], [1, 4], [2, 5]])


def test_an_initializer_is_written_under_the_name_that_nodes_read(tmp_path: Path) -> None:
    model = model_from_text(SUM)
    copy = model.clone()  # its tensors are the same ones
    copy.graph.initializers["bias"].name = "renamed"
    save_graph(model, tmp_path / "model.onnx")
    save_graph(copy, tmp_path / "copy.onnx")

    for path in tmp_path.iterdir():
        assert_array_equal(session(path).run(None, FEEDS)[0], [[1.5, 1.5]])


def test_onnxruntime_computes_the_same_from_the_file(tmp_path: Path, traced: Traced) -> None:
    network = traced("token-classification")
    save_graph(network.graph, tmp_path / "model.onnx")

    runs = session(tmp_path / "model.onnx")
    for case in network.stress_cases()[:5]:
        (logits,) = runs.run(None, case.feeds)
        np.testing.assert_allclose(logits, run(network.graph, case.feeds)["logits"], atol=1e-5)


def test_weights_beyond_the_limit_go_to_a_file_of_their_own(
    tmp_path: Path, traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = traced("fill-mask")
    weights = sum(parameter.nbytes for parameter in network.model.parameters())
    monkeypatch.setattr(save, "PROTOBUF_LIMIT", weights // 2)
    path = tmp_path / "model.onnx"
    told: list[int] = []
    save_graph(copied(network.graph), path, on_bytes=lambda done, total: told.append(done))

    assert told == sorted(told)
    assert 0.5 * weights < told[-1] < weights
    data = tmp_path / "model.onnx.data"
    assert sorted(tmp_path.iterdir()) == [path, data]
    assert data.stat().st_size > 0.9 * weights
    assert path.stat().st_size < 0.5 * weights
    onnx.checker.check_model(str(path), full_check=True)
    case = network.stress_cases()[5]
    (logits,) = session(path).run(None, case.feeds)
    np.testing.assert_allclose(logits, network.eager(case.feeds)["logits"], atol=1e-4)


def test_the_limit_is_below_what_protobuf_takes() -> None:
    assert 1.9e9 < save.PROTOBUF_LIMIT < 2**31 - 1e8


def test_a_graph_that_breaks_the_specification_is_not_written(tmp_path: Path) -> None:
    model = model_from_text(SUM)
    model.graph[0].op_type = "Addd"

    with pytest.raises(GraphError, match=r"onnx\.checker .*Addd"):
        save_graph(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_types_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = model_from_text(SUM)
    model.graph.register_initializer(initializer_from_array("half", np.array([1, 2], dtype=np.float16)))
    model.graph[0].replace_input_with(1, model.graph.initializers["half"])

    with pytest.raises(GraphError):
        save_graph(model, tmp_path / "model.onnx")


def test_the_manifest_is_told_inputs_and_outputs(traced: Traced) -> None:
    values = {"input_ids": 61, "attention_mask": 2, "logits": 7}
    described = graph_from_model(traced("multiple-choice").graph, variant="full", path="model.onnx", values=values)

    ids = ("batch", "choices", "sequence")
    assert (described.variant, described.path, described.opset) == ("full", "model.onnx", 20)
    assert described.inputs == tuple(
        TensorSpec(name=name, dtype="int64", shape=ids, values=limit)
        for name, limit in (("input_ids", 61), ("attention_mask", 2), ("token_type_ids", None))
    )
    assert described.outputs == (TensorSpec(name="logits", dtype="float32", shape=("batch", "choices")),)


def test_precision_is_read_off_the_weights() -> None:
    model = with_initializers(model_from_text(SUM), CONTENTS)
    sizes = {"float32": 4 * (2 + 1 + 5000 + 600_000), "bfloat16": 2 * 65, "float16": 2 * 63}

    assert list(precision_from_model(model).items()) == list(sizes.items())  # the largest share first


def test_weights_in_integers_are_counted_and_sizes_are_not() -> None:
    integers = {
        "bytes": np.zeros((8, 3), dtype=np.int8),
        "halves": np.zeros((8, 3), dtype=ml_dtypes.int4),
        "shape": np.array([1, 2, 3]),
        "zero_point": np.zeros(3, dtype=np.int8),
    }
    model = with_initializers(model_from_text(SUM), integers)

    assert {name: size for name, size in weights_from_model(model).items() if "int" in name} == {"int8": 24, "int4": 12}
