"""How passes make and change initializers. Changed weights are computed when they are saved, one at a time."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[Any]


def initializer_from_array(name: str, array: Array) -> ir.Value:
    """A small constant, ready to be registered."""
    tensor = ir.tensor(array, name=name)
    return ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
    )


def transposed_initializer(value: ir.Value, *, name: str) -> ir.Value:
    """An initializer called `name` that holds the matrix of `value` turned."""
    tensor = _contents(value)
    shape = tensor.shape.numpy()[::-1]
    lazy = _computed(tensor, np.transpose, dtype=tensor.dtype, shape=shape, name=name)
    return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(shape), const_value=lazy)


def concatenated_initializer(values: Sequence[ir.Value], *, axis: int, name: str) -> ir.Value:
    """An initializer called `name` that holds the contents of `values`, all of one type, one after another."""
    tensors = [_contents(value) for value in values]
    first = tensors[0]
    shape = [*first.shape.numpy()]
    shape[axis] = sum(tensor.shape.numpy()[axis] for tensor in tensors)

    def joined(array: Array) -> Array:
        return np.concatenate([array, *(tensor.numpy() for tensor in tensors[1:])], axis=axis)

    lazy = _computed(first, joined, dtype=first.dtype, shape=shape, name=name)
    return ir.Value(name=name, type=ir.TensorType(first.dtype), shape=ir.Shape(shape), const_value=lazy)


def change_initializer(value: ir.Value, change: Callable[[Array], Array], *, dtype: ir.DataType) -> None:
    """Give `value` the contents `change` of what it holds, of type `dtype` and the same shape."""
    tensor = _contents(value)
    value.const_value = _computed(tensor, change, dtype=dtype, shape=tensor.shape.numpy(), name=tensor.name)
    value.type = ir.TensorType(dtype)  # a new one: a clone's values share theirs with the original's


def scale_initializer(value: ir.Value, factor: float) -> None:
    """Multiply what `value` holds by a power of two."""
    change_initializer(value, lambda array: array * np.float32(factor), dtype=_contents(value).dtype)


def _contents(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None
    return value.const_value


def _computed(
    tensor: ir.TensorProtocol,
    change: Callable[[Array], Array],
    *,
    dtype: ir.DataType,
    shape: Sequence[int],
    name: str | None,
) -> ir.LazyTensor:
    def compute() -> ir.TensorProtocol:
        # Not ascontiguousarray, which makes a list of a scalar.
        return ir.Tensor(np.asarray(change(tensor.numpy()), order="C"), dtype=dtype, name=name)

    return ir.LazyTensor(compute, dtype=dtype, shape=ir.Shape(shape), name=name)
