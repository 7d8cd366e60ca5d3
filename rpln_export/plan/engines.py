"""Which TensorRT compiles a bundle's graphs, for which GPUs and sizes, or why none does."""

import importlib.util
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from rpln_export.errors import PlanError
from rpln_export.plan.choices import choose
from rpln_graphs.tensorrt.backends import BACKENDS, Backend, EngineOptions, device_target
from rpln_runtime.engines.manifest import Profile, Range
from rpln_runtime.engines.profiles import axes_of, complete_profile, unknown_axes
from rpln_runtime.errors import InputError
from rpln_runtime.manifest import Axis, Graph

AUTO: Final = "auto"
NONE: Final = "none"

VARIANTS_OF_DECODERS: Final = ("prefill", "decode")
"""An engine's axes are at least 1, so that one graph cannot serve the prompt and the steps."""
NOT_COMPILED: Final = {
    "with-past": "a graph that runs with no past and with one is two engines: --variants prefill,decode",
}
"""Variants by the reason why no engine is made of them."""

# No size of a tensor has more digits.
_RANGE: Final = re.compile(r"([\w*]+)=(\d{1,9})(?::(\d{1,9}):(\d{1,9}))?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """What was asked for: AUTO, NONE or a row of BACKENDS, compute capabilities, profiles as texts, and options."""

    name: str = AUTO
    gpus: Sequence[str] = ()
    profiles: Sequence[str] = ()
    options: EngineOptions = field(default_factory=EngineOptions)

    @property
    def has_wishes(self) -> bool:
        """Whether more was asked for than an engine, or none."""
        return bool(self.gpus or self.profiles or self.options != EngineOptions())


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePlan:
    """How engines are built. Without a `backend` there are none, and `why_not` says why.

    `profiles` are as they were asked for; what they leave open is filled in for each graph. Where one is `required`, by
    name or by what was asked of it, failing to build it fails the export; else it is left out, with its reason.
    """

    backend: Backend | None = None
    targets: tuple[str, ...] = ()
    profiles: tuple[Profile, ...] = ()
    options: EngineOptions = field(default_factory=EngineOptions)
    required: bool = False
    why_not: str = ""


def make_engine_plan(request: EngineRequest, *, precision: str) -> EnginePlan:
    """Check every choice; `precision` is a row of RECIPES.

    Raises PlanError for what contradicts itself or is not to be had, saying why, and MissingExtraError for a TensorRT
    that is asked for by name and not installed.
    """
    choose({AUTO: None, NONE: None, **BACKENDS}, request.name, "--engine")
    if request.name == NONE:
        if request.has_wishes:
            raise PlanError("--engine none builds nothing: drop the options of engines, or choose another --engine.")
        return EnginePlan(why_not="none was asked for (--engine none)")
    backend = _installed() if request.name == AUTO else BACKENDS[request.name]
    if backend is None:
        if request.has_wishes:
            raise PlanError(f"no TensorRT is installed to build an engine. Run: {BACKENDS['tensorrt-rtx'].install}")
        return EnginePlan(why_not=f"no TensorRT is installed. To build engines: {BACKENDS['tensorrt-rtx'].install}")
    if request.name != AUTO:
        backend.load()
    return EnginePlan(
        backend=backend,
        targets=_targets(backend, request.gpus, precision),
        profiles=tuple(profile_from_text(text) for text in request.profiles),
        options=_checked(request.options, backend),
        required=request.name != AUTO or request.has_wishes,
    )


def profile_from_text(text: str) -> Profile:
    """`batch=1:8:32,sequence=128` -> ranges by axis; one number stands for all three. Raises PlanError."""
    profile: Profile = {}
    for part in text.split(","):
        found = _RANGE.fullmatch(part.strip())
        if found is None:
            raise PlanError(
                f"--profile {text!r}: {part.strip()!r} is no range. Expected AXIS=MINIMUM:TUNED:MAXIMUM, or AXIS=SIZE, "
                "with commas between, as in batch=1:8:32,sequence=1:128:384."
            )
        axis, *sizes = found.groups()
        minimum, optimum, maximum = (int(size or sizes[0]) for size in sizes)
        if axis in profile:
            raise PlanError(f"--profile {text!r} names {axis} twice. Ask for two profiles with --profile twice.")
        profile[axis] = Range(minimum=minimum, optimum=optimum, maximum=maximum)
    return profile


def profiles_of_graph(plan: EnginePlan, graph: Graph, limits: Mapping[str, Axis]) -> list[Profile]:
    """The plan's profiles as this graph has them, each once. Raises PlanError for sizes that it cannot take."""
    found: list[Profile] = []
    for given in plan.profiles or ({},):
        try:
            profile = complete_profile(graph, limits, given)
        except InputError as error:
            raise PlanError(str(error)) from error
        if profile not in found:
            found.append(profile)
    return found


def check_axes(plan: EnginePlan, graphs: Iterable[Graph]) -> None:
    """Refuse a profile for an axis that no graph has: TensorRT would ignore it. Raises PlanError."""
    graphs = list(graphs)
    axes = list(dict.fromkeys(axis for graph in graphs for axis in axes_of(graph)))
    inputs = {spec.name for graph in graphs for spec in graph.inputs}
    for axis in dict.fromkeys(axis for profile in plan.profiles for axis in profile):
        if axis not in axes:
            kind = "an input, and profiles go by axis" if axis in inputs else "no axis of the graphs' inputs"
            raise PlanError(f"--profile names {axis!r}, which is {kind}: expected {', '.join(axes)}.")


def reason_not_compiled(graphs: Iterable[Graph]) -> str | None:
    """Why there can be no engines of these graphs; None where there can."""
    for graph in graphs:
        if graph.variant in NOT_COMPILED:
            return NOT_COMPILED[graph.variant]
        for name, axes in unknown_axes(graph).items():
            return f"how long {', '.join(axes)} of {name} is depends on values: --logits positions"
    return None


def _installed() -> Backend | None:
    """What can build here: TensorRT where there is a GPU, TensorRT-RTX anywhere."""
    for backend in BACKENDS.values():
        if importlib.util.find_spec(backend.module) and not (backend.needs_gpu and device_target() is None):
            return backend
    return None


def _targets(backend: Backend, gpus: Sequence[str], precision: str) -> tuple[str, ...]:
    """The GPUs to build for. Raises PlanError for one that the backend, or the precision there, does not have."""
    if backend.needs_gpu:
        found = device_target()
        if found is None:
            raise PlanError(
                f"--engine {backend.name} builds on the GPU at hand, and there is none, or no driver or cuda-python "
                "(rpln doctor). On a machine without one: --engine tensorrt-rtx."
            )
        if gpus and list(gpus) != [found]:
            raise PlanError(f"--engine {backend.name} builds for the GPU at hand, {found}: drop --gpu.")
        return (found,)
    targets = tuple(dict.fromkeys(gpu.lower() for gpu in gpus)) or backend.default_targets
    for target in targets:
        if target not in backend.targets:
            raise PlanError(
                f"--gpu {target}: {backend.name} builds for {', '.join(backend.targets)}. For others, H100 (sm90) and "
                "B200 (sm100) among them: --engine tensorrt, on such a GPU."
            )
        if (target, precision) in backend.refused:
            raise PlanError(
                f"--gpu {target} does not go with {precision} in {backend.name}: {backend.refused[target, precision]}. "
                "Leave it out, or export with --fp16."
            )
    return targets


def _checked(options: EngineOptions, backend: Backend) -> EngineOptions:
    for name in options.asked_for:
        if name in backend.lacks:
            raise PlanError(
                f"--{name.replace('_', '-')} is not to be had of {backend.name}: {backend.lacks[name]}. Drop it, or "
                "use --engine tensorrt on a machine with a GPU."
            )
    return options
