"""Measures the matrix products of an encoder alone. No graph can be faster, whatever else it saves."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.encoder_cases import HEAD_SIZE, MASK, Case

REPEATS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """`count` products [batch, rows, inner] x [batch, inner, columns]. With a batch of 1, the second is a weight."""

    count: int
    rows: int
    inner: int
    columns: int
    batch: int = 1

    @property
    def flops(self) -> int:
        """Return the operations of all products; a multiplication and an addition count as two."""
        return 2 * self.count * self.batch * self.rows * self.inner * self.columns


def products(case: Case) -> list[Product]:
    """Return the products that must be computed.

    None is needed at padding, and the last layer and the head need only the rows that the head reads. Texts of several
    lengths count as texts of one length with as many squared tokens.
    """
    network, hidden = case.network, case.network.hidden
    tokens = sum(case.lengths)
    heads = len(case.lengths) * hidden // HEAD_SIZE
    length = round((sum(length**2 for length in case.lengths) / len(case.lengths)) ** 0.5)
    read = {
        "fill-mask": int((case.feeds()["input_ids"] == MASK).sum()),
        "text-classification": len(case.lengths),
    }.get(network.task, tokens)
    whole = [(network.layers - 1, tokens, length), (1, read, max(1, length * read // tokens))]
    rows = [Product(count=2 * network.layers, rows=tokens, inner=hidden, columns=hidden)]  # keys and values
    for count, queries, query_length in whole:
        rows += [
            Product(count=2 * count, rows=queries, inner=hidden, columns=hidden),
            Product(count=count, rows=query_length, inner=HEAD_SIZE, columns=length, batch=heads),
            Product(count=count, rows=query_length, inner=length, columns=HEAD_SIZE, batch=heads),
            Product(count=count, rows=queries, inner=hidden, columns=4 * hidden),
            Product(count=count, rows=queries, inner=4 * hidden, columns=hidden),
        ]
    if network.task == "fill-mask":
        rows += [Product(count=1, rows=read, inner=hidden, columns=size) for size in (hidden, network.vocabulary)]
    return rows


def measure_floor(case: Case, *, threads: int) -> dict[str, float]:
    """Return the seconds that all products of the case take, by library. Libraries that are missing are left out."""
    seconds: dict[str, float] = {}
    for library, make in LIBRARIES.items():
        try:
            seconds[library] = sum(product.count * _median(make(product, threads)) for product in products(case))
        except ImportError:
            continue
    return seconds


def _median(run: Callable[[], object]) -> float:
    run()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _torch(product: Product, threads: int) -> Callable[[], object]:
    import torch

    torch.set_num_threads(threads)
    left, right = (torch.from_numpy(array) for array in _operands(product))
    out = torch.empty(product.batch, product.rows, product.columns)
    return lambda: torch.matmul(left, right, out=out)


def _onnxruntime(product: Product, threads: int) -> Callable[[], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(_graph(product), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, array in zip(("left", "right"), _operands(product), strict=True):
        if name in {value.name for value in session.get_inputs()}:
            binding.bind_cpu_input(name, array)
    binding.bind_ortvalue_output("product", onnxruntime.OrtValue.ortvalue_from_numpy(_result(product)))
    return lambda: session.run_with_iobinding(binding)


def _openvino(product: Product, threads: int) -> Callable[[], object]:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    core = openvino.Core()
    request = core.compile_model(core.read_model(_graph(product)), "CPU", settings).create_infer_request()
    arrays = dict(zip(("left", "right"), _operands(product), strict=True))
    feeds = {name: arrays[name] for name in (value.any_name for value in request.model_inputs)}
    return lambda: request.infer(feeds, share_inputs=True, share_outputs=True)


LIBRARIES: Final[dict[str, Callable[[Product, int], Callable[[], object]]]] = {
    "torch": _torch,
    "ONNX Runtime": _onnxruntime,
    "OpenVINO": _openvino,
}


def _operands(product: Product) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    left = rng.standard_normal((product.batch, product.rows, product.inner), dtype=np.float32)
    return left, rng.standard_normal((product.batch, product.inner, product.columns), dtype=np.float32)


def _result(product: Product) -> NDArray[np.float32]:
    return np.empty((product.batch, product.rows, product.columns), dtype=np.float32)


def _graph(product: Product) -> bytes:
    """Return a graph of one MatMul. A weight is part of the graph, so that a library may choose its layout."""
    from onnx import TensorProto, helper, numpy_helper

    left, right = _operands(product)
    inputs, weights = [("left", left)], [("right", right)]
    if product.batch > 1:
        inputs, weights = inputs + weights, []
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["left", "right"], ["product"])],
        "product",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in inputs],
        [helper.make_tensor_value_info("product", TensorProto.FLOAT, _result(product).shape)],
        [numpy_helper.from_array(array, name) for name, array in weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())
