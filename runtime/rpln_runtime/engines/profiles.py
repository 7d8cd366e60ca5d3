"""Optimization profiles of TensorRT: the sizes of each axis that a graph is compiled for.

TensorRT checks neither names nor positions: it ignores a profile for an input that does not exist, and a sequence that
is longer than the table of positions makes it read past the table's end. So both are checked here.
"""

import re
from collections.abc import Mapping
from typing import Final, TypeAlias

from rpln_runtime.engines.manifest import Profile, Range
from rpln_runtime.errors import InputError
from rpln_runtime.manifest import Axis, Graph

Shapes: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""The smallest shape of an input, the shape that kernels are tuned for, and the largest shape."""

UNBOUNDED: Final = {"batch": Range(minimum=1, optimum=4, maximum=8), "choices": Range(minimum=1, optimum=4, maximum=8)}
"""The default sizes of axes that only memory limits."""
LONGEST: Final = 512
"""The default maximum of an axis of tokens whose maximum is not known: the output of a foreign encoder."""
TUNED_LENGTH: Final = 128
"""The number of tokens that kernels are tuned for by default."""

FIXED: Final = {"decode": {"sequence": Range(minimum=1, optimum=1, maximum=1)}}
"""The sizes that a variant always has, by variant and axis. A step takes one token, which has kernels of its own."""


def axes_of(graph: Graph) -> list[str]:
    """Return the dynamic axes of a graph's inputs, without those that are sums of others."""
    axes = [axis for spec in graph.inputs for axis in spec.shape if isinstance(axis, str)]
    return list(dict.fromkeys(axis for axis in axes if "+" not in axis))


def unknown_axes(graph: Graph) -> dict[str, list[str]]:
    """Return the axes of each output whose sizes depend on the values of the inputs, and not on their sizes alone.

    Outputs that have no such axis are left out. An engine cannot have such an output: its memory is bound before it
    runs.
    """
    known = {axis for spec in graph.inputs for axis in spec.shape}
    found = {
        spec.name: [axis for axis in spec.shape if isinstance(axis, str) and not _follows(axis, known)]
        for spec in graph.outputs
    }
    return {name: axes for name, axes in found.items() if axes}


def complete_profile(graph: Graph, limits: Mapping[str, Axis], given: Mapping[str, Range] | None = None) -> Profile:
    """Return a range for each dynamic axis of `graph`: the one in `given`, or else the default.

    Axes in `given` that the graph does not have are ignored. Raises InputError for a range whose numbers are not in
    order, and for one that the graph cannot take.
    """
    fixed = FIXED.get(graph.variant, {})
    given = {**(given or {}), **fixed}
    profile = {axis: given.get(axis) or _default(axis, limits[axis]) for axis in axes_of(graph)}
    for axis, sizes in profile.items():
        _check(axis, sizes, limits[axis], graph)
    return profile


def input_shapes(graph: Graph, limits: Mapping[str, Axis], profile: Profile) -> dict[str, Shapes]:
    """Return the smallest, tuned and largest shape of each input of `graph` in `profile`."""
    return {
        spec.name: (
            _shape(spec.shape, {axis: sizes.minimum for axis, sizes in profile.items()}, limits),
            _shape(spec.shape, {axis: sizes.optimum for axis, sizes in profile.items()}, limits),
            _shape(spec.shape, {axis: sizes.maximum for axis, sizes in profile.items()}, limits),
        )
        for spec in graph.inputs
    }


def _follows(axis: str, known: set[str | int]) -> bool:
    """Return whether `axis` is one of the `known` axes, or a sum or product of them."""
    return axis in known or {*re.split(r" \+ |\*", axis)} <= known


def _default(axis: str, limit: Axis) -> Range:
    longest = LONGEST if limit.maximum is None else limit.maximum
    tuned = Range(minimum=max(1, limit.minimum), optimum=min(TUNED_LENGTH, longest), maximum=longest)
    return UNBOUNDED.get(axis, tuned)


def _check(axis: str, sizes: Range, limit: Axis, graph: Graph) -> None:
    if not max(1, limit.minimum) <= sizes.minimum <= sizes.optimum <= sizes.maximum:
        raise InputError(
            f"the profile has {axis}={sizes}: expected minimum:tuned:maximum, in this order, and at least "
            f"{max(1, limit.minimum)}."
        )
    if limit.maximum is not None and sizes.maximum > limit.maximum:
        raise InputError(
            f"the profile has {axis}={sizes}, but {graph.path} takes at most {limit.maximum} there, as many as the "
            f"network has positions. Choose a maximum of {limit.maximum} or less."
        )


def _shape(axes: tuple[str | int, ...], sizes: Mapping[str, int], limits: Mapping[str, Axis]) -> tuple[int, ...]:
    """Return the shape of a tensor with these `axes`.

    An axis that is a sum of others has the sum of their sizes, but at most the network's own limit.
    """
    shape = []
    for axis in axes:
        if isinstance(axis, int):
            shape.append(axis)
            continue
        total = sum(sizes[part] for part in axis.split(" + "))
        maximum = limits[axis].maximum
        shape.append(total if maximum is None else min(total, maximum))
    return tuple(shape)
