"""What is checked before an engine is loaded, so that a machine it is not for gets a sentence, and never a crash.

In this order: there is one, its runtime is installed and of its version, there is a driver, the device is one that it
was built for, and the graph is the one that it was built from.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rpln_runtime.engines.base import Bundle
from rpln_runtime.engines.manifest import EngineManifest, graph_files, read_engines
from rpln_runtime.engines.tensorrt.device import Cuda
from rpln_runtime.errors import MissingExtraError, ProviderError


class Checked(NamedTuple):
    """An engine that this machine can load, NVIDIA's module to load it with, and the device."""

    engine: EngineManifest
    trt: Any
    cuda: Cuda


def check_engines(bundle: Bundle, *, builder: str, module: str, install: str) -> Checked:
    """Choose the engine of `bundle` that `builder` made for its graph and that can be loaded here.

    Raises ProviderError, with the command that builds it again, where there is none, and MissingExtraError, with the
    command `install`, without the packages.
    """
    rebuild = f"rpln build {bundle.folder} --engine {builder}"
    engines = _engines_of(bundle, builder, rebuild)
    trt = _import(module, builder, install)
    cuda = Cuda(_import("cuda.bindings.runtime", builder, install))
    engines = _fitting(engines, lambda engine: _wrong_version(engine, trt, install), f"Build it again: {rebuild}")
    cuda.check_driver()
    capability = cuda.capability()
    target = f" --gpu {capability}" if builder == "tensorrt-rtx" else ""
    for_device = f"Build one for it: {rebuild}{target}"
    engines = _fitting(engines, lambda engine: _wrong_device(engine, capability), for_device)
    engines = _fitting(engines, lambda engine: _wrong_graph(engine, bundle), f"Build it again: {rebuild}{target}")
    # One for this very device, with weights inside, is the quickest to load and to run.
    return Checked(min(engines, key=lambda engine: (capability not in engine.targets, engine.stripped)), trt, cuda)


def _engines_of(bundle: Bundle, builder: str, rebuild: str) -> list[EngineManifest]:
    engines = read_engines(bundle.folder, bundle.manifest)
    found = [engine for engine in engines if (engine.builder, engine.variant) == (builder, bundle.graph.variant)]
    if found:
        return found
    others = sorted({f"{engine.variant} by {engine.builder}" for engine in engines})
    raise ProviderError(
        f"{bundle.folder} holds no engine of its graph {bundle.graph.variant!r} for provider {builder!r}"
        f"{', only ' + ', '.join(others) if others else ''}. Build one: {rebuild}"
    )


def _import(module: str, builder: str, install: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"provider {builder!r} runs engines with {module}, which is not installed ({error}). Run: {install}"
        ) from error


def _fitting(
    engines: Sequence[EngineManifest], why_not: Callable[[EngineManifest], str | None], then: str
) -> list[EngineManifest]:
    """The engines that nothing speaks against. Raises ProviderError, with what speaks against the first, for none."""
    reasons = [why_not(engine) for engine in engines]
    found = [engine for engine, reason in zip(engines, reasons, strict=True) if reason is None]
    if not found:
        raise ProviderError(f"{reasons[0]}. {then}")
    return found


def _wrong_version(engine: EngineManifest, trt: Any, install: str) -> str | None:
    """NVIDIA promises nothing between versions, of TensorRT RTX neither, but for engines built to be compatible."""
    later = engine.version_compatible and _numbers(trt.__version__) > _numbers(engine.version)
    if engine.version == trt.__version__ or later:
        return None
    return (
        f"{engine.plan.path} was built by {engine.builder} {engine.version}, and {trt.__version__} is installed, which "
        f"cannot read it: with {install} {engine.builder}=={engine.version} it would run"
    )


def _wrong_device(engine: EngineManifest, capability: str) -> str | None:
    oldest = min(map(_number, engine.targets))
    if capability in engine.targets or (engine.hardware_compatible and _number(capability) > oldest):
        return None
    later = " and later" if engine.hardware_compatible else ""
    return f"{engine.plan.path} is for {', '.join(engine.targets)}{later}, and the GPU here is {capability}"


def _wrong_graph(engine: EngineManifest, bundle: Bundle) -> str | None:
    path = engine.graph[0].path
    if engine.graph == graph_files(path, bundle.manifest):
        return None
    return f"{engine.plan.path} was built from another {path} than the bundle holds (SHA-256)"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


def _number(target: str) -> int:
    return int(target.removeprefix("sm"))
