"""Checks of the arrays that are fed to a graph. Every refusal names the input, its value, and the limit."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rpln_runtime.errors import InputError
from rpln_runtime.manifest import Graph, Manifest, TensorSpec
from rpln_runtime.tasks import MASKED_POSITIONS, SEQUENCE


def check_feeds(feeds: Mapping[str, np.ndarray], graph: Graph, manifest: Manifest) -> None:
    """Check `feeds`, arrays by the names of inputs, against the inputs of `graph` and the limits of `manifest`.

    Raises InputError for an unknown or missing input, a wrong dtype, a wrong number of axes, a size that is out of
    range or differs from that of another input, and an integer that is out of range.
    """
    _check_names(feeds, graph)
    sizes: dict[str, tuple[str, int]] = {}  # by axis: the first input that has it, and its size there
    for spec in graph.inputs:
        _check_type(feeds[spec.name], spec)
        _check_shape(feeds[spec.name].shape, spec, manifest, sizes)
    for axis, (name, size) in sizes.items():
        _check_sum(axis, name, size, sizes)
    for spec in graph.inputs:
        if spec.name == MASKED_POSITIONS.name:
            _check_values(feeds[spec.name], spec.name, sizes[SEQUENCE][1])
        elif spec.values is not None:
            _check_values(feeds[spec.name], spec.name, spec.values)


def _check_names(feeds: Mapping[str, np.ndarray], graph: Graph) -> None:
    names = [spec.name for spec in graph.inputs]
    for name in feeds:
        if name not in names:
            raise InputError(f"unknown input {name!r}: the graph takes {', '.join(names)}.")
    for name in names:
        if name not in feeds:
            raise InputError(f"input {name!r} is missing: the graph takes {', '.join(names)}.")


def _check_type(array: Any, spec: TensorSpec) -> None:
    if spec.dtype == "bfloat16":
        raise InputError(
            f"{spec.name} is bfloat16, a type that numpy does not have. To generate text, use rpln_runtime.generator, "
            "which needs no array of it; otherwise export the checkpoint with --fp16."
        )
    if not isinstance(array, np.ndarray):
        raise InputError(f"{spec.name} is a {type(array).__name__}, expected a numpy array of {spec.dtype}.")
    if array.dtype != np.dtype(spec.dtype):
        raise InputError(f"{spec.name} has dtype {array.dtype}, expected {spec.dtype}: convert it with .astype().")
    if array.ndim != len(spec.shape):
        raise InputError(
            f"{spec.name} has rank {array.ndim} (shape {array.shape}), expected rank {len(spec.shape)}: "
            f"({', '.join(map(str, spec.shape))})."
        )


def _check_shape(
    shape: tuple[int, ...], spec: TensorSpec, manifest: Manifest, sizes: dict[str, tuple[str, int]]
) -> None:
    """Check each size against the graph, the limits of its axis, and the earlier inputs, whose sizes are in `sizes`."""
    for position, (axis, size) in enumerate(zip(spec.shape, shape, strict=True)):
        if isinstance(axis, int):
            if size != axis:
                raise InputError(f"{spec.name} has size {size} in axis {position}, expected {axis}.")
            continue
        limits = manifest.axes[axis]
        if size < limits.minimum or (limits.maximum is not None and size > limits.maximum):
            expected = f"{limits.minimum} " + ("or more" if limits.maximum is None else f"to {limits.maximum}")
            raise InputError(
                f"{spec.name} has size {size} in axis {axis!r}, expected {expected}."
                + (" Cut the text, or split it into windows." if axis == SEQUENCE and size > limits.minimum else "")
            )
        other, size_there = sizes.setdefault(axis, (spec.name, size))
        if size != size_there:
            raise InputError(
                f"{spec.name} has size {size} in axis {axis!r}, {other} has {size_there}: make them equal."
            )


def _check_sum(axis: str, name: str, size: int, sizes: dict[str, tuple[str, int]]) -> None:
    """Check the size of an axis such as "past_sequence + sequence", which must be the sum of the sizes of the two."""
    terms = [sizes[term] for term in axis.split(" + ") if term in sizes]
    if axis.count(" + ") == len(terms) - 1 > 0 and size != sum(length for _, length in terms):
        lengths = " and ".join(f"{length} of {other}" for other, length in terms)
        raise InputError(f"{name} has size {size} in axis {axis!r}, expected the sum of {lengths}.")


def _check_values(array: np.ndarray, name: str, limit: int) -> None:
    """Raise InputError for an integer that is not from 0 to `limit` - 1."""
    outside = (array < 0) | (array >= limit)
    if outside.any():
        where = tuple(int(index) for index in np.argwhere(outside)[0])
        raise InputError(f"{name} holds {array[where]} at {where}, expected 0 to {limit - 1}.")
