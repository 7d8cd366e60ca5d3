"""engines/NAME.json beside engines/NAME.plan: what a TensorRT engine is, for whom, and what it was made from.

A bundle's engines are those that its file list names, so that their hashes are checked with all others.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from rpln_runtime.errors import ManifestError
from rpln_runtime.manifest import BundleFile, Manifest, value_from_json

ENGINE_SCHEMA_VERSION: Final = 1
ENGINES: Final = "engines"
"""The folder of a bundle that holds them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The sizes that an engine takes along an axis, both ends included, and the one that it was tuned for."""

    minimum: int
    optimum: int
    maximum: int

    def __str__(self) -> str:
        return f"{self.minimum}:{self.optimum}:{self.maximum}"


Profile: TypeAlias = dict[str, Range]
"""Ranges by the name of a dynamic axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A kernel of the engine: its name and kind as TensorRT calls them, and the ONNX nodes that it computes.

    `inputs`, constants among them, and `outputs` are dtypes by their names in numpy. Each profile has kernels of its
    own.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    profile: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineManifest:
    """An engine.

    `builder` is a row of BUILDERS in `rpln_graphs.tensorrt` and `version` that of its package; `targets` are compute
    capabilities (sm89); a `hardware_compatible` one runs on later ones too, and a `version_compatible` one by later
    runtimes. `stripped` ones hold no weights: those of the graph are put in when it is loaded. `graph` is the ONNX file
    that it was made from, with the file of its weights where that is another. `attentions` counts the fused attentions
    of each profile. `weights` and `activations`, of each profile, are in bytes of the device's memory, `workspace` was
    the limit given to the builder. `timing_cache` is the SHA-256 of the cache of measured kernels that was used.
    """

    builder: str
    version: str
    targets: tuple[str, ...]
    hardware_compatible: bool
    version_compatible: bool
    stripped: bool
    variant: str
    precision: str
    graph: tuple[BundleFile, ...]
    plan: BundleFile
    profiles: tuple[Profile, ...]
    weights: int
    activations: tuple[int, ...]
    workspace: int | None
    attentions: tuple[int, ...]
    layers: tuple[Layer, ...]
    seconds: float
    timing_cache: str | None
    schema_version: int = field(default=ENGINE_SCHEMA_VERSION)


def read_engines(folder: Path, manifest: Manifest) -> list[EngineManifest]:
    """The engines of the bundle in `folder`. Raises ManifestError for one of another schema."""
    files = {file.path for file in manifest.files}
    names = sorted(path for path in files if path.startswith(f"{ENGINES}/") and path.endswith(".json"))
    engines = [read_engine(folder / name) for name in names]
    for engine in engines:
        if engine.plan.path not in files:
            raise ManifestError(f"{folder} holds no {engine.plan.path}, which its engines name. Build them again.")
    return engines


def read_engine(path: Path) -> EngineManifest:
    """Read the manifest of one engine. Raises ManifestError for one that is broken or of another schema."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(f"{path} cannot be read ({error}). Build the engine again.") from error
    found = document.get("schema_version") if isinstance(document, dict) else None
    if found != ENGINE_SCHEMA_VERSION:
        raise ManifestError(
            f"{path} has schema version {found!r}, this rpln-runtime reads {ENGINE_SCHEMA_VERSION}. "
            "Build the engine again, or install the rpln-runtime that matches it."
        )
    try:
        engine: EngineManifest = value_from_json(EngineManifest, document, "the engine")
    except TypeError as error:
        raise ManifestError(
            f"{path} breaks schema {ENGINE_SCHEMA_VERSION}: {error}. Build the engine again."
        ) from error
    if len({len(engine.profiles), len(engine.activations), len(engine.attentions)}) != 1 or not engine.profiles:
        raise ManifestError(f"{path} does not say the same of all its profiles. Build the engine again.")
    return engine


def write_engine(path: Path, engine: EngineManifest) -> None:
    """Write the manifest of an engine to `path`."""
    path.write_text(json.dumps(dataclasses.asdict(engine), indent=1) + "\n", encoding="utf-8")


def graph_files(path: str, manifest: Manifest) -> tuple[BundleFile, ...]:
    """The ONNX file at `path` of a bundle and the file of its weights, as the bundle's manifest has them."""
    files = {file.path: file for file in manifest.files}
    weights = [f"{path}.data", "model.onnx.data"]
    return tuple(files[name] for name in dict.fromkeys([path, *weights]) if name in files)
