"""Optimization profiles: which sizes a graph is compiled for, axis by axis, and the shapes that its inputs then have.

TensorRT checks neither names nor the position table: a profile for an input that is not there is ignored, and one
beyond the table reads past its end. So they are checked here.
"""

import re
from collections.abc import Mapping
from typing import Final, TypeAlias

from rpln_runtime.engines.manifest import Profile, Range
from rpln_runtime.errors import InputError
from rpln_runtime.manifest import Axis, Graph

Shapes: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Of one input: the smallest, that which is tuned for, and the largest."""

UNBOUNDED: Final = {"batch": Range(minimum=1, optimum=4, maximum=8), "choices": Range(minimum=1, optimum=4, maximum=8)}
"""Where only memory bounds an axis."""
LONGEST: Final = 512
"""Of what another network's encoder gives, whose length is not known."""
TUNED_LENGTH: Final = 128

FIXED: Final = {"decode": {"sequence": Range(minimum=1, optimum=1, maximum=1)}}
"""By variant: a step is given one token, and a kernel for one token is another."""


def axes_of(graph: Graph) -> list[str]:
    """The dynamic axes of a graph's inputs that follow from no others."""
    axes = [axis for spec in graph.inputs for axis in spec.shape if isinstance(axis, str)]
    return list(dict.fromkeys(axis for axis in axes if "+" not in axis))


def unknown_axes(graph: Graph) -> dict[str, list[str]]:
    """The axes of each output that follow from no sizes of the inputs, but from what they hold: by output, if any.

    An engine's memory is there before it runs, so that it can have none.
    """
    known = {axis for spec in graph.inputs for axis in spec.shape}
    found = {
        spec.name: [axis for axis in spec.shape if isinstance(axis, str) and not _follows(axis, known)]
        for spec in graph.outputs
    }
    return {name: axes for name, axes in found.items() if axes}


def complete_profile(graph: Graph, limits: Mapping[str, Axis], given: Mapping[str, Range] | None = None) -> Profile:
    """A range for each dynamic axis of `graph`: the one given, else the default. Others of `given` are left out.

    Raises InputError for a range that is none, or goes beyond what the graph can take.
    """
    fixed = FIXED.get(graph.variant, {})
    given = {**(given or {}), **fixed}
    profile = {axis: given.get(axis) or _default(axis, limits[axis]) for axis in axes_of(graph)}
    for axis, sizes in profile.items():
        _check(axis, sizes, limits[axis], graph)
    return profile


def input_shapes(graph: Graph, limits: Mapping[str, Axis], profile: Profile) -> dict[str, Shapes]:
    """The smallest, tuned and largest shape of each input of `graph` in `profile`."""
    return {
        spec.name: (
            _shape(spec.shape, {axis: sizes.minimum for axis, sizes in profile.items()}, limits),
            _shape(spec.shape, {axis: sizes.optimum for axis, sizes in profile.items()}, limits),
            _shape(spec.shape, {axis: sizes.maximum for axis, sizes in profile.items()}, limits),
        )
        for spec in graph.inputs
    }


def _follows(axis: str, known: set[str | int]) -> bool:
    """Whether an axis is one of those known, or a sum or product of them."""
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
            f"the profile has {axis}={sizes}, and {graph.path} takes at most {limit.maximum} there: its table of "
            f"positions ends. Choose a maximum of {limit.maximum} or less."
        )


def _shape(axes: tuple[str | int, ...], sizes: Mapping[str, int], limits: Mapping[str, Axis]) -> tuple[int, ...]:
    """An axis named by a sum is as long as the axes it names together, as far as the network goes."""
    shape = []
    for axis in axes:
        if isinstance(axis, int):
            shape.append(axis)
            continue
        total = sum(sizes[part] for part in axis.split(" + "))
        maximum = limits[axis].maximum
        shape.append(total if maximum is None else min(total, maximum))
    return tuple(shape)
