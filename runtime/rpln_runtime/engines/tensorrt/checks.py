"""Checks before an engine is loaded, so that a machine that cannot run it gets a message and not a crash.

The checks are in this order: the bundle has an engine, its runtime is installed in the right version, there is a
driver, the engine was built for the GPU, and it was built from the bundle's graph.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rpln_runtime.engines.base import Bundle
from rpln_runtime.engines.manifest import EngineManifest, graph_files, read_engines
from rpln_runtime.engines.tensorrt.device import Cuda
from rpln_runtime.errors import MissingExtraError, ProviderError


class Checked(NamedTuple):
    """An engine that can be loaded on this machine.

    Attributes:
        engine: the description of the engine.
        trt: NVIDIA's module, which loads it.
        cuda: CUDA's functions.
    """

    engine: EngineManifest
    trt: Any
    cuda: Cuda


def check_engines(bundle: Bundle, *, builder: str, module: str, install: str) -> Checked:
    """Return the engine that can be loaded here.

    Args:
        bundle: the graph and its bundle.
        builder: the TensorRT that built the engine, which is also the name of the provider.
        module: NVIDIA's Python module.
        install: the command that installs what is missing.

    Raises ProviderError, with the command that builds an engine again, if no engine can be loaded here, and
    MissingExtraError if a package is not installed.
    """
    rebuild = f"rpln build {bundle.folder} --engine {builder}"
    engines = _engines_of(bundle, builder, rebuild)
    trt = _import(module, builder, install)
    cuda = Cuda(_import("cuda.bindings.runtime", builder, install))
    engines = _fitting(engines, lambda engine: _wrong_version(engine, trt, install), f"Or build it again: {rebuild}")
    cuda.check_driver()
    capability = cuda.capability()
    target = f" --gpu {capability}" if builder == "tensorrt-rtx" else ""
    for_device = f"Build one for it: {rebuild}{target}"
    engines = _fitting(engines, lambda engine: _wrong_device(engine, capability), for_device)
    engines = _fitting(engines, lambda engine: _wrong_graph(engine, bundle), f"Build it again: {rebuild}{target}")
    # An engine for this very GPU that has its weights is the fastest to load and to run.
    return Checked(min(engines, key=lambda engine: (capability not in engine.targets, engine.stripped)), trt, cuda)


def _engines_of(bundle: Bundle, builder: str, rebuild: str) -> list[EngineManifest]:
    """Return the engines of the bundle's graph by this builder. Raises ProviderError if there are none."""
    engines = read_engines(bundle.folder, bundle.manifest)
    found = [engine for engine in engines if (engine.builder, engine.variant) == (builder, bundle.graph.variant)]
    if found:
        return found
    others = sorted({f"{engine.variant} by {engine.builder}" for engine in engines})
    raise ProviderError(
        f"{bundle.folder} has no engine of its graph {bundle.graph.variant!r} for provider {builder!r}"
        f"{'; it has ' + ', '.join(others) if others else ''}. Build one: {rebuild}"
    )


def _import(module: str, builder: str, install: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"provider {builder!r} needs the module {module}, which is not installed ({error}). Run: {install}"
        ) from error


def _fitting(
    engines: Sequence[EngineManifest], why_not: Callable[[EngineManifest], str | None], then: str
) -> list[EngineManifest]:
    """Return the engines that `why_not` has no reason against.

    Raises ProviderError if there are none. Its message has the reason against the first engine, and `then`, what to do.
    """
    reasons = [why_not(engine) for engine in engines]
    found = [engine for engine, reason in zip(engines, reasons, strict=True) if reason is None]
    if not found:
        raise ProviderError(f"{reasons[0]}. {then}")
    return found


def _wrong_version(engine: EngineManifest, trt: Any, install: str) -> str | None:
    """Return the reason why the installed TensorRT cannot read the engine; None if it can.

    An engine runs with the version that built it, or, if it was built to be version-compatible, with later versions.
    """
    later = engine.version_compatible and _numbers(trt.__version__) > _numbers(engine.version)
    if engine.version == trt.__version__ or later:
        return None
    return (
        f"{engine.plan.path} was built by {engine.builder} {engine.version}, but {trt.__version__} is installed, which "
        f"cannot read it. Install that version: {install} {engine.builder}=={engine.version}"
    )


def _wrong_device(engine: EngineManifest, capability: str) -> str | None:
    """Return the reason why the engine does not run on a GPU of this compute capability; None if it does."""
    oldest = min(map(_number, engine.targets))
    if capability in engine.targets or (engine.hardware_compatible and _number(capability) > oldest):
        return None
    later = " and later" if engine.hardware_compatible else ""
    return f"{engine.plan.path} was built for {', '.join(engine.targets)}{later}, but the GPU here is {capability}"


def _wrong_graph(engine: EngineManifest, bundle: Bundle) -> str | None:
    """Return the reason why the engine is not one of the bundle's graph; None if it is."""
    path = engine.graph[0].path
    if engine.graph == graph_files(path, bundle.manifest):
        return None
    return f"{engine.plan.path} was not built from the bundle's {path}: their SHA-256 differ"


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, to compare it with another."""
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


def _number(target: str) -> int:
    """Return the number of a compute capability such as sm89."""
    return int(target.removeprefix("sm"))
