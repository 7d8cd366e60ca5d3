"""Building the engines of a bundle: one of each graph in standard operators, checked against the graph."""

import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx_ir as ir

from rpln_export.errors import DestinationError
from rpln_export.plan.engines import EnginePlan, check_engines
from rpln_export.plan.profiles import profiles_of_graph, reason_not_compiled
from rpln_graphs.errors import EngineError
from rpln_graphs.recipes import RECIPES
from rpln_graphs.tensorrt.builder import BuiltEngine, build_engine
from rpln_graphs.tensorrt.checks import fused_attentions, precision_of_products, unfused_attentions
from rpln_graphs.variants import VARIANTS
from rpln_runtime.caches import cache_folder
from rpln_runtime.engines.manifest import ENGINES, EngineManifest, Profile, graph_files, read_engines, write_engine
from rpln_runtime.engines.profiles import input_shapes
from rpln_runtime.errors import MissingExtraError
from rpln_runtime.manifest import Graph, Manifest, bundle_file_from_path, read_manifest, write_manifest
from rpln_runtime.replacing import partial_folder

COMPILED: Final = "compiled, not executed: that takes a GPU"
"""What the report says of engines, because an export compares the graphs with eager torch, but not the engines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginesBuilt:
    """The engines of an export. `note` says which TensorRT built them, or why there are none."""

    engines: tuple[EngineManifest, ...] = ()
    note: str


def export_engines(
    plan: EnginePlan, folder: Path, manifest: Manifest, advance: Callable[[int, int], None], *, allow_partial: bool
) -> EnginesBuilt:
    """Build the engines that `plan` asks for into the new bundle in `folder`, and return what was built.

    Where the user asked for nothing about engines and none can be built, the note says why. Raises EngineError or
    MissingExtraError where the user asked for one.
    """
    if plan.backend is None:
        return EnginesBuilt(note=plan.why_not)
    if reason := reason_not_compiled(manifest.graphs):
        return EnginesBuilt(note=f"no engine by {plan.backend.name}: {reason}")
    try:
        engines = _build(plan, folder, manifest, folder / ENGINES, advance, allow_partial=allow_partial)
    except (EngineError, MissingExtraError) as error:
        if plan.required:
            raise
        shutil.rmtree(folder / ENGINES, ignore_errors=True)
        return EnginesBuilt(note=f"no engine: {error}")
    return EnginesBuilt(engines=engines, note=f"{engines[0].builder} {engines[0].version}; {COMPILED}")


def build_engines(
    plan: EnginePlan, folder: Path, advance: Callable[[int, int], None], *, allow_partial: bool = False
) -> tuple[EngineManifest, ...]:
    """Add engines to the finished bundle in `folder`, and return them. Engines of the same names are replaced.

    The bundle is whole at every moment. After an interrupt it has the old engines, the new ones, or none of these
    names. Raises PlanError for graphs or profiles that cannot be compiled, EngineError for an engine that cannot be
    built, and DestinationError for a folder that cannot be written.
    """
    manifest = read_manifest(folder)
    check_engines(plan, manifest.graphs, manifest.axes)
    try:
        with partial_folder(folder / ENGINES) as partial:
            engines = _build(plan, folder, manifest, partial.new, advance, allow_partial=allow_partial)
            _publish(partial.new, folder, manifest)
    except OSError as error:
        raise DestinationError(
            f"the engines of {folder} cannot be written ({error}). Make room, or copy the bundle to a folder that you "
            "can write to."
        ) from error
    return engines


def _publish(place: Path, folder: Path, manifest: Manifest) -> None:
    """Move the files in `place` to the engines of the bundle in `folder`.

    The manifest names no file of these names while they are replaced, and all of them in the end.
    """
    names = sorted(path.name for path in place.iterdir())
    (folder / ENGINES).mkdir(exist_ok=True)
    write_manifest(folder, manifest, without={f"{ENGINES}/{name}" for name in names})
    # NAME.json is removed first and comes last, so that there is never one without its NAME.plan.
    for name in names:
        (folder / ENGINES / name).unlink(missing_ok=True)
    for name in reversed(names):
        (place / name).replace(folder / ENGINES / name)
    write_manifest(folder, manifest)


def _build(
    plan: EnginePlan,
    folder: Path,
    manifest: Manifest,
    place: Path,
    advance: Callable[[int, int], None],
    *,
    allow_partial: bool,
) -> tuple[EngineManifest, ...]:
    """Build an engine of each graph of the bundle in the folder `place`, and return the engines."""
    place.mkdir(exist_ok=True)
    engines = []
    for done, graph in enumerate(manifest.graphs):
        advance(done, len(manifest.graphs))
        engines.append(_build_one(plan, folder, manifest, graph, place, allow_partial=allow_partial))
    return tuple(engines)


def _build_one(
    plan: EnginePlan, folder: Path, manifest: Manifest, graph: Graph, place: Path, *, allow_partial: bool
) -> EngineManifest:
    """Build the engine of one graph, check it, write it to the folder `place`, and return its manifest."""
    backend = plan.backend
    assert backend is not None
    profiles = profiles_of_graph(plan.profiles, graph, manifest.axes)
    timings = _timings_path(plan) if backend.keeps_timings else None
    built = build_engine(
        folder / graph.path,
        [input_shapes(graph, manifest.axes, profile) for profile in profiles],
        backend=backend,
        targets=plan.targets,
        options=plan.options,
        timings=timings.read_bytes() if timings and timings.is_file() else None,
    )
    if timings and built.timings:
        _keep(built.timings, timings)
    model = ir.load(folder / graph.path)
    asked = _type_of_products(manifest, model)
    precision, attentions = _checked(built, model, graph, profiles, asked, allow_partial=allow_partial)
    name = f"{Path(graph.path).stem}.{backend.name}-{'-'.join(plan.targets)}"
    path = place / f"{name}.plan"
    path.write_bytes(built.data)
    engine = EngineManifest(
        builder=backend.name,
        version=built.version,
        targets=plan.targets,
        hardware_compatible=plan.options.hardware_compatible,
        version_compatible=plan.options.version_compatible,
        stripped=plan.options.strip_weights,
        variant=graph.variant,
        precision=precision,
        graph=graph_files(graph.path, manifest),
        plan=dataclasses.replace(bundle_file_from_path(place, path), path=f"{ENGINES}/{path.name}"),
        profiles=tuple(profiles),
        weights=built.weights,
        activations=built.activations,
        workspace=plan.options.workspace,
        attentions=tuple(attentions),
        layers=built.layers,
        seconds=built.seconds,
        timing_cache=hashlib.sha256(built.timings).hexdigest() if built.timings else None,
    )
    write_engine(path.with_suffix(".json"), engine)
    return engine


def _type_of_products(manifest: Manifest, model: ir.Model) -> str:
    """Return the type that one of the bundle's graphs multiplies in, by its name in numpy.

    It is the manifest's, unless weights of the graph are quantized. Where the gate left out many blocks, one of several
    graphs may have none that are.
    """
    recipe = RECIPES.get(manifest.recipe)
    if recipe is not None and recipe.quantizes:
        stored = {value.dtype for value in model.graph.initializers.values()}
        return str(recipe.stores_in.numpy().name) if recipe.stores_in in stored else manifest.precision
    return manifest.precision


def _checked(
    built: BuiltEngine, model: ir.Model, graph: Graph, profiles: Sequence[Profile], asked: str, *, allow_partial: bool
) -> tuple[str, list[int]]:
    """Return the type that the engine computes in and the number of fused attentions in each profile.

    Both are read back from the engine. Raises EngineError for a type other than `asked`, and for an attention that
    takes several kernels where one is expected.
    """
    precision = precision_of_products(built.layers, model, profiles=len(profiles))
    if precision != asked:
        raise EngineError(
            f"the engine of {graph.path} multiplies matrices in {precision}, but the bundle computes in {asked}. "
            "Please report it, with the version of TensorRT that rpln doctor shows."
        )
    for number, profile in enumerate(profiles):
        unfused = unfused_attentions(built.layers, model, number)
        # Attention over a single token needs no softmax, and TensorRT removes it.
        one_token = all(profile[axis].maximum == 1 for axis in profile if axis.endswith("sequence"))
        expected = VARIANTS[graph.variant].one_attention_kernel and precision != "float32" and not one_token
        if unfused and expected and not allow_partial:
            raise EngineError(
                f"the engine of {graph.path} computes {len(unfused)} attentions in several kernels each, where one was "
                f"expected, in profile {number}: {', '.join(unfused)}. To build it all the same, add "
                "--allow-partial-fusion. Please report it, with what rpln doctor shows."
            )
    return precision, fused_attentions(built.layers, model, profiles=len(profiles))


def _timings_path(plan: EnginePlan) -> Path:
    """Return the file of kernel timings, which are measured once on a machine for each TensorRT and kind of GPU."""
    assert plan.backend is not None
    return cache_folder() / f"{plan.backend.name}-{plan.backend.load().__version__}-{plan.targets[0]}.timings"


def _keep(timings: bytes, path: Path) -> None:
    """Write the timings to `path`, in place of what is there, so that no reader sees half a file."""
    with partial_folder(path) as partial:
        (partial.new / path.name).write_bytes(timings)
        (partial.new / path.name).replace(path)


def engines_of_bundle(folder: Path) -> list[EngineManifest]:
    """Return the engines of the bundle in `folder`. Raises ManifestError for a broken one."""
    return read_engines(folder, read_manifest(folder))
