"""Several graphs in a folder share one file of weights, which has each weight once, and compute what they did."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from rpln_graphs.errors import GraphError
from rpln_graphs.save import ALIGNMENT, SMALLEST_OUTSIDE, WEIGHTS_NAME, save_graphs

SIZE = 32  # a matrix of this size is stored outside
X = np.arange(SIZE, dtype=np.float32)[None]


def linear(weight: np.ndarray, bias: np.ndarray) -> ir.Model:
    """Return the graph of y = x W + b."""
    text = f"""
        <ir_version: 10, opset_import: ["": 20]>
        linear (float[batch, {SIZE}] x) => (float[batch, {SIZE}] y) {{
            product = MatMul(x, weight)
            y = Add(product, bias)
        }}
    """
    model = ir.from_onnx_text(text)
    for name, array in (("weight", weight), ("bias", bias)):
        old = next(value for node in model.graph for value in node.inputs if value is not None and value.name == name)
        tensor = ir.tensor(array, name=name)
        new = ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
        )
        old.replace_all_uses_with(new)
        model.graph.register_initializer(new)
    return model


def run(path: Path) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"x": X})[0]
    return result


def external(path: Path) -> dict[str, dict[str, str]]:
    """Return the places of the initializers that are outside of the file."""
    graph = onnx.load(path, load_external_data=False).graph
    return {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data}
        for tensor in graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    }


WEIGHT = np.random.default_rng(0).standard_normal((SIZE, SIZE)).astype(np.float32)
BIAS = np.linspace(-1, 1, SIZE, dtype=np.float32)


def test_a_weight_that_two_graphs_have_is_stored_once(tmp_path: Path) -> None:
    save_graphs({"a.onnx": linear(WEIGHT, BIAS), "b.onnx": linear(WEIGHT.copy(), 2 * BIAS)}, tmp_path)

    assert (tmp_path / WEIGHTS_NAME).stat().st_size == WEIGHT.nbytes
    assert external(tmp_path / "a.onnx") == external(tmp_path / "b.onnx")
    np.testing.assert_allclose(run(tmp_path / "a.onnx"), X @ WEIGHT + BIAS, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(run(tmp_path / "b.onnx"), X @ WEIGHT + 2 * BIAS, rtol=1e-5, atol=1e-3)


def test_weights_of_one_name_that_differ_are_both_kept(tmp_path: Path) -> None:
    save_graphs({"a.onnx": linear(WEIGHT, BIAS), "b.onnx": linear(WEIGHT / 4, BIAS)}, tmp_path)

    assert (tmp_path / WEIGHTS_NAME).stat().st_size == 2 * WEIGHT.nbytes
    np.testing.assert_allclose(run(tmp_path / "b.onnx"), X @ (WEIGHT / 4) + BIAS, rtol=1e-5, atol=1e-3)


def test_the_bytes_that_are_written_are_told_up_to_the_last(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    models = {"a.onnx": linear(WEIGHT, BIAS), "b.onnx": linear(WEIGHT, 2 * BIAS)}
    save_graphs(models, tmp_path, on_bytes=lambda done, total: told.append((done, total)))

    one = WEIGHT.nbytes + BIAS.nbytes
    assert told == [(done, 2 * one) for done in (BIAS.nbytes, one, one + BIAS.nbytes, 2 * one)]


def test_weights_begin_at_aligned_places(tmp_path: Path) -> None:
    odd = linear(WEIGHT, np.zeros(SIZE, np.float32))
    longer = ir.tensor(np.arange(SMALLEST_OUTSIDE + 3, dtype=np.uint8), name="odd")
    odd.graph.register_initializer(
        ir.Value(name="odd", type=ir.TensorType(longer.dtype), shape=ir.Shape(longer.shape.numpy()), const_value=longer)
    )
    save_graphs({"a.onnx": odd, "b.onnx": linear(WEIGHT + 1, BIAS)}, tmp_path)

    offsets = [int(place["offset"]) for name in ("a.onnx", "b.onnx") for place in external(tmp_path / name).values()]
    assert len(set(offsets)) == 3
    assert [offset % ALIGNMENT for offset in offsets] == [0, 0, 0]


def test_what_is_small_stays_in_its_graph(tmp_path: Path) -> None:
    save_graphs({"a.onnx": linear(WEIGHT, BIAS), "b.onnx": linear(WEIGHT, BIAS)}, tmp_path)

    assert BIAS.nbytes < SMALLEST_OUTSIDE
    assert list(external(tmp_path / "a.onnx")) == ["weight"]


def test_a_single_graph_is_one_file(tmp_path: Path) -> None:
    save_graphs({"a.onnx": linear(WEIGHT, BIAS)}, tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


def test_the_graphs_that_are_saved_are_not_changed(tmp_path: Path) -> None:
    models = {"a.onnx": linear(WEIGHT, BIAS), "b.onnx": linear(WEIGHT, BIAS)}
    save_graphs(models, tmp_path)
    (tmp_path / WEIGHTS_NAME).unlink()

    for model in models.values():
        weight = model.graph.initializers["weight"].const_value
        assert weight is not None
        np.testing.assert_array_equal(weight.numpy(), WEIGHT)


def test_a_graph_that_breaks_the_specification_is_refused(tmp_path: Path) -> None:
    broken = linear(WEIGHT, BIAS)
    broken.graph.outputs[0].shape = ir.Shape(["batch", SIZE + 1])
    with pytest.raises(GraphError, match=r"onnx\.checker"):
        save_graphs({"a.onnx": linear(WEIGHT, BIAS), "b.onnx": broken}, tmp_path)
