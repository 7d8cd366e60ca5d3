"""The engines of an export: which TensorRT compiles its graphs, for which GPUs and sizes, or why none does."""

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from rpln_export.errors import PlanError
from rpln_export.plan.choices import AUTO, NONE, choose
from rpln_export.plan.graphs import GraphPlan
from rpln_export.plan.profiles import check_profiles, profile_from_text, reason_not_compiled
from rpln_graphs.recipes import RECIPES
from rpln_graphs.tensorrt.backends import BACKENDS, Backend, EngineOptions, device_target
from rpln_runtime.engines.manifest import Profile
from rpln_runtime.manifest import Axis, Graph, TensorSpec
from rpln_runtime.tasks import Tensor

MIB: Final = 2**20
"""The bytes of a MiB."""
MOST_MIB: Final = 2**43 - 1
"""The largest workspace: TensorRT counts bytes in 64 bits, with a sign in some of its versions."""
FOR_CPUS: Final = "{precision} graphs are written for CPUs, and TensorRT does not take them"
"""Why some quantized exports have no engines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """The options about engines as the user gave them.

    Attributes:
        name: AUTO, NONE or a row of BACKENDS.
        gpus: compute capabilities such as "sm89".
        profiles: texts such as "batch=1:8:32".
        options: how engines are built.
    """

    name: str = AUTO
    gpus: Sequence[str] = ()
    profiles: Sequence[str] = ()
    options: EngineOptions = field(default_factory=EngineOptions)

    @property
    def has_details(self) -> bool:
        """Whether the user asked for anything besides the TensorRT: GPUs, profiles or options."""
        return bool(self.gpus or self.profiles or self.options != EngineOptions())

    @property
    def asked_for(self) -> bool:
        """Whether the user asked for an engine, by the name of a TensorRT or by details."""
        return self.name not in {AUTO, NONE} or self.has_details


def engine_request(
    *,
    engine: str = AUTO,
    gpus: Sequence[str] = (),
    profiles: Sequence[str] = (),
    workspace: int | None = None,
    version_compatible: bool = False,
    hardware_compatible: bool = False,
    strip_weights: bool = False,
    verbose: bool = False,
) -> EngineRequest:
    """Return the request of a user who gives `workspace` in MiB; for the rest, see EngineRequest and EngineOptions.

    Raises PlanError for a workspace that no memory has.
    """
    if workspace is not None and not 0 < workspace <= MOST_MIB:
        raise PlanError(f"--workspace is {workspace} MiB, which is not in the range 1 to {MOST_MIB}.")
    options = EngineOptions(
        workspace=None if workspace is None else workspace * MIB,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        strip_weights=strip_weights,
        verbose=verbose,
    )
    return EngineRequest(name=engine, gpus=tuple(gpus), profiles=tuple(profiles), options=options)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePlan:
    """The decision which engines are built, and how.

    Attributes:
        backend: the TensorRT that builds them; None where there are no engines.
        targets: the compute capabilities that they are built for.
        profiles: the sizes that were asked for; what they leave open is filled in for each graph.
        options: how they are built.
        required: whether the user asked for an engine or for anything about it. If so, the export fails when building
            fails; otherwise the engine is left out, with the reason.
        why_not: why there are no engines.
    """

    backend: Backend | None = None
    targets: tuple[str, ...] = ()
    profiles: tuple[Profile, ...] = ()
    options: EngineOptions = field(default_factory=EngineOptions)
    required: bool = False
    why_not: str = ""


def make_engine_plan(request: EngineRequest, *, precision: str) -> EnginePlan:
    """Check every choice and return the plan; `precision` is the name of a row of RECIPES.

    Raises PlanError for choices that contradict each other or cannot be met, and MissingExtraError for a TensorRT that
    was asked for by name and is not installed.
    """
    choose({AUTO: None, NONE: None, **BACKENDS}, request.name, "--engine")
    if request.name == NONE:
        if request.has_details:
            raise PlanError(
                "--engine none builds no engines, but --gpu, --profile or another option says how to build them. Leave "
                "these options out, or choose another --engine."
            )
        return EnginePlan(why_not="none was asked for (--engine none)")
    recipe = RECIPES.get(precision)
    if recipe is not None and recipe.quantizes and not recipe.lowers:
        why_not = FOR_CPUS.format(precision=precision)
        if request.asked_for:
            raise PlanError(
                f"{why_not}. Leave out the options of engines, or export with --fp16, --int8 --target tensorrt or "
                "--int4 --target tensorrt. Encoders can also be exported with --fp8."
            )
        return EnginePlan(why_not=why_not)
    backend = _installed() if request.name == AUTO else BACKENDS[request.name]
    if backend is None:
        if request.has_details:
            raise PlanError(f"no TensorRT is installed to build an engine. Run: {BACKENDS['tensorrt-rtx'].install}")
        return EnginePlan(why_not=f"no TensorRT is installed. To build engines: {BACKENDS['tensorrt-rtx'].install}")
    if request.name != AUTO:
        backend.load()
    if not request.asked_for and (why_not := _refused_here(backend, precision)):
        return EnginePlan(why_not=why_not)
    return EnginePlan(
        backend=backend,
        targets=_targets(backend, request.gpus, precision),
        profiles=tuple(profile_from_text(text) for text in request.profiles),
        options=_checked(request.options, backend),
        required=request.asked_for,
    )


def check_engines(plan: EnginePlan, graphs: Sequence[Graph], limits: Mapping[str, Axis]) -> None:
    """Refuse graphs and profiles that no engine can be built of. Raises PlanError.

    `graphs` are described as in a manifest, and `limits` gives the sizes of their dynamic axes.
    """
    if plan.backend is None:
        return
    reason = reason_not_compiled(graphs)
    if reason and plan.required:
        raise PlanError(f"--engine {plan.backend.name} cannot compile these graphs: {reason}.")
    if not reason:
        check_profiles(plan.profiles, graphs, limits)


def described_graphs(graphs: Sequence[GraphPlan], limits: Mapping[str, Axis], *, opset: int) -> list[Graph]:
    """Return planned graphs as a manifest describes them, but with 1 for sizes that the config holds.

    Profiles need no more: they are about dynamic axes.
    """

    def specs(tensors: Iterable[Tensor]) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(
                name=tensor.name,
                dtype=tensor.dtype,
                shape=tuple(axis if isinstance(axis, int) or axis in limits else 1 for axis in tensor.axes),
            )
            for tensor in tensors
        )

    return [
        Graph(
            variant=graph.variant.name,
            path=graph.path,
            opset=opset,
            inputs=specs(graph.inputs),
            outputs=specs(graph.outputs),
        )
        for graph in graphs
    ]


def _installed() -> Backend | None:
    """Return the TensorRT that can build here: TensorRT where there is a GPU, TensorRT-RTX anywhere, else None."""
    for backend in BACKENDS.values():
        if importlib.util.find_spec(backend.module) and not (backend.needs_gpu and device_target() is None):
            return backend
    return None


def _targets(backend: Backend, gpus: Sequence[str], precision: str) -> tuple[str, ...]:
    """Return the GPUs to build for: by default, those of the backend's own that have the precision.

    Raises PlanError for a GPU that the backend, or the precision on it, lacks.
    """
    if backend.needs_gpu:
        found = device_target()
        if found is None:
            raise PlanError(
                f"--engine {backend.name} builds for the GPU of this machine, but none was found: the GPU, its driver "
                "or cuda-python is missing. rpln doctor says which. To build without a GPU, use --engine tensorrt-rtx."
            )
        if gpus and list(gpus) != [found]:
            raise PlanError(
                f"--engine {backend.name} builds for the GPU of this machine, {found}, and for no other. Leave out "
                "--gpu."
            )
        if why_not := _refused_here(backend, precision):
            raise PlanError(f"{why_not}. Export with --fp16, or use --engine tensorrt-rtx for another GPU.")
        return (found,)
    default = [target for target in backend.default_targets if (target, precision) not in backend.refused]
    targets = tuple(dict.fromkeys(gpu.lower() for gpu in gpus or default))
    for target in targets:
        if target not in backend.targets:
            raise PlanError(
                f"{backend.name} does not build for --gpu {target}, only for {', '.join(backend.targets)}. For another "
                "GPU, such as H100 (sm90) or B200 (sm100), use --engine tensorrt on a machine that has it."
            )
        if (target, precision) in backend.refused:
            raise PlanError(
                f"{backend.name} does not build {precision} engines for --gpu {target}: "
                f"{backend.refused[target, precision]}. Leave this GPU out, or export with --fp16."
            )
    return targets


def _refused_here(backend: Backend, precision: str) -> str:
    """Return why a backend that builds for the GPU at hand cannot do so in this precision; empty if it can."""
    target = device_target() if backend.needs_gpu else None
    reason = backend.refused.get((target or "", precision))
    if reason is None:
        return ""
    return f"{backend.name} does not build {precision} engines for the GPU of this machine, {target}: {reason}"


def _checked(options: EngineOptions, backend: Backend) -> EngineOptions:
    """Return `options` as they are. Raises PlanError for an option that the backend does not offer."""
    for name in options.asked_for:
        if name in backend.lacks:
            raise PlanError(
                f"{backend.name} does not offer --{name.replace('_', '-')}: {backend.lacks[name]}. Leave it out, or "
                "use --engine tensorrt on a machine with a GPU."
            )
    return options
