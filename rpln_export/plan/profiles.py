"""Optimization profiles: the sizes that the engines of a bundle are built for, checked against its graphs."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from rpln_export.errors import PlanError
from rpln_graphs.variants import VARIANTS
from rpln_runtime.engines.manifest import Profile, Range
from rpln_runtime.engines.profiles import axes_of, complete_profile, unknown_axes
from rpln_runtime.errors import InputError
from rpln_runtime.manifest import Axis, Graph

# A number without colons stands for minimum, tuned and maximum. No size of a tensor has more than nine digits.
_RANGE: Final = re.compile(r"([\w*]+)=(\d{1,9})(?::(\d{1,9}):(\d{1,9}))?", re.ASCII)


def profile_from_text(text: str) -> Profile:
    """Return the ranges in a text such as `batch=1:8:32,sequence=128`, by axis. Raises PlanError for other texts."""
    profile: Profile = {}
    for part in text.split(","):
        found = _RANGE.fullmatch(part.strip())
        if found is None:
            raise PlanError(
                f"--profile {text!r}: {part.strip()!r} is not a range. Expected AXIS=MINIMUM:TUNED:MAXIMUM, or "
                "AXIS=SIZE, with commas between, as in batch=1:8:32,sequence=1:128:384."
            )
        axis, *sizes = found.groups()
        minimum, optimum, maximum = (int(size or sizes[0]) for size in sizes)
        if axis in profile:
            raise PlanError(f"--profile {text!r} names {axis} twice. For two profiles, give --profile twice.")
        profile[axis] = Range(minimum=minimum, optimum=optimum, maximum=maximum)
    return profile


def profiles_of_graph(profiles: Sequence[Profile], graph: Graph, limits: Mapping[str, Axis]) -> list[Profile]:
    """Return `profiles` as this graph has them, each once; without any, the default one.

    Raises PlanError for sizes that the graph cannot take.
    """
    found: list[Profile] = []
    for given in profiles or ({},):
        try:
            profile = complete_profile(graph, limits, given)
        except InputError as error:
            raise PlanError(str(error)) from error
        if profile not in found:
            found.append(profile)
    return found


def check_profiles(profiles: Sequence[Profile], graphs: Sequence[Graph], limits: Mapping[str, Axis]) -> None:
    """Refuse profiles that the graphs cannot have: TensorRT would ignore an axis that is not there.

    Raises PlanError.
    """
    axes = list(dict.fromkeys(axis for graph in graphs for axis in axes_of(graph)))
    inputs = {spec.name for graph in graphs for spec in graph.inputs}
    for axis in dict.fromkeys(axis for profile in profiles for axis in profile):
        if axis not in axes:
            kind = "an input, but profiles name axes" if axis in inputs else "no axis of the graphs' inputs"
            raise PlanError(f"--profile names {axis!r}, which is {kind}. The axes are {', '.join(axes)}.")
    for graph in graphs:
        profiles_of_graph(profiles, graph, limits)


def reason_not_compiled(graphs: Iterable[Graph]) -> str | None:
    """Return why no engines can be built of these graphs; None where they can."""
    for graph in graphs:
        if reason := VARIANTS[graph.variant].not_compiled:
            return reason
        for name, axes in unknown_axes(graph).items():
            return (
                f"the length of {', '.join(axes)} in {name} depends on values, which TensorRT does not support: use "
                "--logits positions"
            )
    return None
