"""Manifests of TensorRT engines: `engines/NAME.json` describes `engines/NAME.plan`.

The engines of a bundle are those in its list of files, so that their hashes are checked with all others.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from rpln_runtime.documents import DocumentError, read_document, shown
from rpln_runtime.errors import ManifestError
from rpln_runtime.limits import MANIFEST
from rpln_runtime.manifest import BundleFile, Manifest, value_from_json

ENGINE_SCHEMA_VERSION: Final = 1
"""The version of the schema that this package reads and writes."""
ENGINES: Final = "engines"
"""The folder of a bundle that holds its engines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The sizes of an axis that an engine takes.

    Attributes:
        minimum: the smallest size.
        optimum: the size that the kernels are tuned for.
        maximum: the largest size.
    """

    minimum: int
    optimum: int
    maximum: int

    def __str__(self) -> str:
        return f"{self.minimum}:{self.optimum}:{self.maximum}"


Profile: TypeAlias = dict[str, Range]
"""The sizes of all dynamic axes that an engine takes, by the name of the axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A kernel of an engine.

    Attributes:
        name: the name that TensorRT gives it.
        kind: the type that TensorRT gives it.
        nodes: the names of the ONNX nodes that it computes.
        inputs: the dtypes of its inputs, constants among them, by numpy's names.
        outputs: the dtypes of its outputs, by numpy's names.
        profile: the number of the profile that it belongs to. Each profile has kernels of its own.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    profile: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineManifest:
    """The description of an engine.

    Attributes:
        builder: the TensorRT that built it, a row of `rpln_graphs.tensorrt.BACKENDS`.
        version: the version of that TensorRT.
        targets: the compute capabilities that it was built for, such as "sm89".
        hardware_compatible: whether it also runs on GPUs of later compute capabilities.
        version_compatible: whether later versions of TensorRT run it, too.
        stripped: whether it has no weights. They are taken from the ONNX file when it is loaded.
        variant: the variant of the graph.
        precision: the dtype of its matrix products, by numpy's name.
        graph: the ONNX file that it was built from, and the file of its weights if they are in another.
        plan: the file of the engine.
        profiles: the profiles, of which a batch must fit one.
        weights: the size of the weights in device memory, in bytes.
        activations: the size of the activations of each profile in device memory, in bytes.
        workspace: the most device memory that a kernel may use while it runs, in bytes; None means all of it.
        attentions: the number of fused attentions in each profile.
        layers: the kernels.
        seconds: how long the build took.
        timing_cache: the SHA-256 of the timing cache that the build used; None if it used none.
        schema_version: the version of the schema.
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
    """Return the engines of the bundle in `folder`.

    Raises ManifestError for one that is broken or has another schema.
    """
    files = {file.path for file in manifest.files}
    names = sorted(path for path in files if path.startswith(f"{ENGINES}/") and path.endswith(".json"))
    engines = [read_engine(folder / name) for name in names]
    for engine in engines:
        if engine.plan.path not in files:
            raise ManifestError(
                f"{folder} has no {engine.plan.path}, which a manifest in {ENGINES}/ describes. Build the engine again."
            )
    return engines


def read_engine(path: Path) -> EngineManifest:
    """Read the manifest of one engine. Raises ManifestError for one that is broken or has another schema."""
    try:
        document = read_document(path, MANIFEST)
    except DocumentError as error:
        raise ManifestError(f"{path} cannot be read ({error}). Build the engine again.") from error
    found = document.get("schema_version") if isinstance(document, dict) else None
    if found != ENGINE_SCHEMA_VERSION:
        raise ManifestError(
            f"{path} has schema version {shown(found)}, this rpln-runtime reads {ENGINE_SCHEMA_VERSION}. "
            "Build the engine again, or install the rpln-runtime that matches it."
        )
    try:
        engine: EngineManifest = value_from_json(EngineManifest, document, "the engine")
    except TypeError as error:
        raise ManifestError(
            f"{path} breaks schema {ENGINE_SCHEMA_VERSION}: {error}. Build the engine again."
        ) from error
    if len({len(engine.profiles), len(engine.activations), len(engine.attentions)}) != 1 or not engine.profiles:
        raise ManifestError(
            f"{path} has {len(engine.profiles)} profiles, activations of {len(engine.activations)} and attentions of "
            f"{len(engine.attentions)}: expected the same number of each, at least 1. Build the engine again."
        )
    return engine


def write_engine(path: Path, engine: EngineManifest) -> None:
    """Write the manifest of an engine to `path`."""
    path.write_text(json.dumps(dataclasses.asdict(engine), indent=1) + "\n", encoding="utf-8")


def graph_files(path: str, manifest: Manifest) -> tuple[BundleFile, ...]:
    """Return the ONNX file at `path` of a bundle, and the file of its weights if they are in another."""
    files = {file.path: file for file in manifest.files}
    weights = [f"{path}.data", "model.onnx.data"]
    return tuple(files[name] for name in dict.fromkeys([path, *weights]) if name in files)
