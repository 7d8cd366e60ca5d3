"""The comparison of two graphs value by value, which finds the first value in which they differ."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rpln_graphs.emulate import LOWER_TYPES, rounding_copy
from rpln_graphs.errors import GraphError
from rpln_graphs.feeds import Feeds
from rpln_graphs.sessions import session_from_model
from rpln_graphs.temporary import temporary_folder
from rpln_runtime.errors import InputError

SAME: Final = 1e-4
SAME_IN_LOWER_TYPES: Final = 2e-2
"""The shares of a value's range up to which differences do not count.

The second is for graphs of which one computes in fp16 or bf16.
"""
MASKED: Final = float(np.finfo(np.float32).min) / 2
"""Scores below this are masked, whether by -inf or by the lowest number of their type."""

Values = dict[str, NDArray[Any]]
Masks = Mapping[int, NDArray[np.bool_]]
"""Masks [rows, tokens], true at real tokens, by the number of tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How much a value differs between two graphs.

    Attributes:
        name: the name of the value.
        shape: its shape.
        difference: the largest difference; None where it is not finite.
        reach: the value's range: its largest magnitude in either graph, masked scores left out.
    """

    name: str
    shape: tuple[int, ...]
    difference: float | None
    reach: float

    def within(self, bound: float) -> bool:
        """Return whether the difference is at most `bound` times the range."""
        return self.difference is not None and self.difference <= bound * self.reach


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueComparison:
    """The float values that two graphs compute under the same names, in the first graph's order of computation.

    Attributes:
        bound: the share of a value's range up to which it agrees.
        compared: the number of values with the same shape.
        other_shape: the number of values with different shapes, which are not compared.
        absorbed: values that differ although something computed from them agrees, as where one graph has a weight or a
            scale folded into another place.
        differing: the other values that differ.
        outputs: the outputs of the first graph, among the values that were compared.
    """

    bound: float
    compared: int
    other_shape: int
    absorbed: tuple[Difference, ...]
    differing: tuple[Difference, ...]
    outputs: tuple[Difference, ...]


def compare_values(first: ir.Model, second: ir.Model, feeds: Feeds, *, bound: float | None = None) -> ValueComparison:
    """Run both graphs on `feeds`, on the CPU and node for node as written, and compare their float values.

    Where `feeds` has an attention mask, values at padding are left out: they mean nothing. Graphs in a lower type
    compute in fp32 with rounding after each operator. None for `bound` means SAME, or SAME_IN_LOWER_TYPES if a graph is
    in a lower type.

    Raises InputError for feeds that a graph does not take, and GraphError for a graph that does not run on the CPU.
    """
    if bound is None:
        bound = SAME_IN_LOWER_TYPES if _is_lowered(first) or _is_lowered(second) else SAME
    theirs = _computed(second)
    shared = [name for name in _computed(first) if name in theirs]
    values = [_run(model, shared, feeds) for model in (first, second)]
    pairs = {name: (values[0][name], values[1][name]) for name in shared if all(name in side for side in values)}
    masks = _real_tokens(feeds)
    found = [
        _difference(name, left, right, masks) for name, (left, right) in pairs.items() if left.shape == right.shape
    ]
    again = _sources(first, {row.name for row in found if row.within(bound)})
    beyond = [row for row in found if not row.within(bound)]
    outputs = {value.name for value in first.graph.outputs}
    return ValueComparison(
        bound=bound,
        compared=len(found),
        other_shape=len(pairs) - len(found),
        absorbed=tuple(row for row in beyond if row.name in again),
        differing=tuple(row for row in beyond if row.name not in again),
        outputs=tuple(row for row in found if row.name in outputs),
    )


def _computed(model: ir.Model) -> dict[str, ir.Value]:
    """Return the values that the graph's nodes compute, by name, in their order."""
    return {value.name: value for node in model.graph for value in node.outputs if value.name}


def _is_lowered(model: ir.Model) -> bool:
    return any(value.dtype in LOWER_TYPES for value in _computed(model).values())


def _sources(model: ir.Model, names: set[str]) -> set[str]:
    """Return the names of all values that any of the named ones is computed from."""
    sources: set[str] = set()
    for node in reversed(model.graph):
        if any(value.name in names or value.name in sources for value in node.outputs):
            sources.update(value.name for value in node.inputs if value is not None and value.name)
    return sources


def _run(model: ir.Model, names: Sequence[str], feeds: Feeds) -> Values:
    """Return those of the named values that are floats."""
    copy = rounding_copy(model) if _is_lowered(model) else model.clone()
    inputs = {value.name or "": value.dtype for value in copy.graph.inputs}
    if missing := inputs.keys() - feeds.keys():
        given = ", ".join(sorted(feeds))
        raise InputError(f"a graph takes {', '.join(sorted(missing))} besides {given}. Give all of them with --feeds.")
    made = _computed(copy)
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(made[name] for name in names)
    with temporary_folder() as folder:
        session = _session(copy, folder)
    typed = {name: _typed(feeds[name], dtype) for name, dtype in inputs.items()}
    try:
        arrays = session.run(list(names), typed)
    except Exception as error:  # onnxruntime's exceptions have no other common class
        raise InputError(
            f"a graph does not take these inputs ({error}). Give arrays of the right types and shapes with --feeds."
        ) from error
    return {name: array for name, array in zip(names, arrays, strict=True) if _is_float(array)}


def _session(model: ir.Model, folder: Path) -> Any:
    try:
        return session_from_model(model, folder)
    except GraphError:
        raise
    except Exception as error:  # onnxruntime's exceptions have no other common class
        raise GraphError(
            f"a graph does not run on the CPU, so that its values cannot be compared ({error})."
        ) from error


def _is_float(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind == "f"


def _typed(array: NDArray[Any], dtype: ir.DataType | None) -> NDArray[Any]:
    """Return the array in the float type of this graph's input, which need not be that of the other graph's."""
    return array.astype(dtype.numpy()) if dtype is not None and array.dtype.kind == "f" else array


def _real_tokens(feeds: Feeds) -> Masks:
    """Return where tokens are real: among the tokens that are fed and, for a decoder, among past and new ones."""
    if "attention_mask" not in feeds:
        return {}
    mask = feeds["attention_mask"]
    whole = mask.reshape(-1, mask.shape[-1]).astype(bool)
    new = feeds.get("input_ids", mask).shape[-1]
    return {new: whole[:, -new:], whole.shape[1]: whole}


def _without_padding(shape: tuple[int, ...], masks: Masks) -> NDArray[np.bool_]:
    """Return a mask of a value's shape: true where the value belongs to real tokens.

    Tokens are found by the lengths of axes: behind the batch, in scores also twice, or with the batch as one axis.
    """
    kept = np.ones(shape, dtype=bool)
    for tokens, mask in masks.items():
        if shape[:1] == (mask.size,):
            kept &= mask.reshape(-1, *(1 for _ in shape[1:]))
        if shape[:1] == (len(mask),):
            for axis in [axis for axis in range(1, len(shape)) if shape[axis] == tokens]:
                kept &= mask.reshape([size if place in {0, axis} else 1 for place, size in enumerate(shape)])
    return kept


def _difference(name: str, left: NDArray[Any], right: NDArray[Any], masks: Masks) -> Difference:
    shape = left.shape
    seen = (left > MASKED) | (right > MASKED) | np.isnan(left) | np.isnan(right)
    seen &= _without_padding(shape, masks)
    left, right = left[seen].astype(np.float64), right[seen].astype(np.float64)
    equal = (left == right) | (np.isnan(left) & np.isnan(right))
    gap = np.zeros_like(left)
    np.subtract(left, right, out=gap, where=~equal)
    largest = float(np.abs(gap).max(initial=0.0))
    return Difference(
        name=name,
        shape=shape,
        difference=largest if math.isfinite(largest) else None,
        reach=max(_reach(left), _reach(right)),
    )


def _reach(array: NDArray[Any]) -> float:
    return float(np.abs(array[np.isfinite(array)]).max(initial=0.0))
