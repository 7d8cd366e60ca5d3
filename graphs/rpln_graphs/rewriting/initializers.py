"""How passes make and change initializers. Changed weights are computed when they are saved, one at a time."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray

from rpln_graphs.rewriting.values import tensor_of

Array = NDArray[Any]


def initializer_from_array(name: str, array: Array) -> ir.Value:
    """Return an initializer that holds `array` and is not registered in a graph yet."""
    return initializer_from_tensor(ir.tensor(array, name=name))


def initializer_from_tensor(tensor: ir.TensorProtocol) -> ir.Value:
    """Return an initializer with the name and the contents of `tensor`, which is not registered in a graph yet."""
    return ir.Value(
        name=tensor.name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
    )


def shared_initializer(graph: ir.Graph, name: str, array: ArrayLike) -> ir.Value:
    """Return the initializer called `name`, which holds `array` and is registered at the first call.

    Integers are int64, as ONNX wants shapes, axes and indices.
    """
    if name not in graph.initializers:
        graph.register_initializer(initializer_from_array(name, np.asarray(array)))
    return graph.initializers[name]


def transposed_initializer(value: ir.Value, *, name: str) -> ir.Value:
    """Return an initializer called `name` that holds the transposed matrix of `value`."""
    tensor = tensor_of(value)
    shape = tensor.shape.numpy()[::-1]
    return initializer_from_tensor(computed_tensor(tensor, np.transpose, dtype=tensor.dtype, shape=shape, name=name))


def concatenated_initializer(values: Sequence[ir.Value], *, axis: int, name: str) -> ir.Value:
    """Return an initializer called `name` that holds the contents of `values`, of one type, joined along `axis`."""
    tensors = [tensor_of(value) for value in values]
    first = tensors[0]
    shape = [*first.shape.numpy()]
    shape[axis] = sum(tensor.shape.numpy()[axis] for tensor in tensors)

    def joined(array: Array) -> Array:
        return np.concatenate([array, *(tensor.numpy() for tensor in tensors[1:])], axis=axis)

    return initializer_from_tensor(computed_tensor(first, joined, dtype=first.dtype, shape=shape, name=name))


def change_initializer(value: ir.Value, change: Callable[[Array], Array]) -> None:
    """Let `value` hold what `change` makes of its contents: an array of the same shape, rounded to the same type."""
    tensor = tensor_of(value)

    def changed(array: Array) -> Array:
        return change(array).astype(array.dtype, copy=False)

    value.const_value = computed_tensor(
        tensor, changed, dtype=tensor.dtype, shape=tensor.shape.numpy(), name=tensor.name
    )


def cast_initializer(value: ir.Value, dtype: ir.DataType) -> None:
    """Let `value` hold its contents as `dtype`."""
    tensor = tensor_of(value)

    def cast(array: Array) -> Array:
        return array.astype(dtype.numpy())

    value.const_value = computed_tensor(tensor, cast, dtype=dtype, shape=tensor.shape.numpy(), name=tensor.name)
    value.type = ir.TensorType(dtype)  # a new one: a clone's values share theirs with the original's


def scale_initializer(value: ir.Value, factor: float) -> None:
    """Multiply the contents of `value` by `factor`; they are rounded once, and not at all by a power of two."""
    change_initializer(value, lambda array: array * np.float32(factor))


def computed_tensor(
    tensor: ir.TensorProtocol,
    change: Callable[[Array], Array],
    *,
    dtype: ir.DataType,
    shape: Sequence[int],
    name: str | None,
) -> ir.LazyTensor:
    """Return a tensor of what `change` makes of another's contents, computed anew whenever it is read."""

    def compute() -> ir.TensorProtocol:
        # Not ascontiguousarray, which makes a list of a scalar.
        return ir.Tensor(np.asarray(change(tensor.numpy()), order="C"), dtype=dtype, name=name)

    return ir.LazyTensor(compute, dtype=dtype, shape=ir.Shape(shape), name=name)
