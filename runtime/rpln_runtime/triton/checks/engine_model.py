"""A model that TensorRT runs: its plan, the manifest of the engine, and the lengths of the rows that come to it."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from rpln_runtime.engines.manifest import EngineManifest, read_engine
from rpln_runtime.errors import RplnError
from rpln_runtime.manifest import bundle_file_from_path
from rpln_runtime.triton.checks.common import check_parameters
from rpln_runtime.triton.checks.model import Model
from rpln_runtime.triton.checks.onnx_model import check_labels, check_warmup
from rpln_runtime.triton.checks.tensors import compare_with_graph
from rpln_runtime.triton.engine_choice import most_rows
from rpln_runtime.triton.engine_config import ENGINE_FILE, PLAN_FILE
from rpln_runtime.triton.steps.bundle import manifest_of_step


def check_engine_model(model: Model, models: Mapping[str, Model]) -> Iterator[str]:
    """Yield the problems of a configuration for the tensorrt backend."""
    if (model.config.platform, model.config.backend) != ("tensorrt_plan", "tensorrt"):
        yield 'platform and backend are expected to be "tensorrt_plan" and "tensorrt"'
    for kind in model.kinds:
        if kind != "KIND_GPU":
            yield f"instance_group is of {kind}, expected KIND_GPU: an engine runs on a GPU"
    for version in model.versions:
        try:
            yield from _check_version(model, models, version)
        except RplnError as error:
            yield str(error)
    yield from check_parameters(model, frozenset())
    yield from check_labels(model)
    yield from check_warmup(model)


def _check_version(model: Model, models: Mapping[str, Model], version: Path) -> Iterator[str]:
    path = version / (model.config.default_model_filename or PLAN_FILE)
    if not path.is_file():
        yield f"{version.name}/{path.name} does not exist"
        return
    engine = read_engine(version / ENGINE_FILE)
    if bundle_file_from_path(version, path).sha256 != engine.plan.sha256:
        yield f"{version.name}/{path.name} is not the plan that {ENGINE_FILE} describes (SHA-256)"
    yield from compare_with_graph(model, manifest_of_step(version).graphs[0], "the engine")
    yield from _profiles(model, models, engine)


def _profiles(model: Model, models: Mapping[str, Model], engine: EngineManifest) -> Iterator[str]:
    """Yield the profiles that the engine does not have, and batches that it does not take."""
    for group in model.config.instance_group:
        for profile in group.profile:
            if not profile.isdecimal() or int(profile) >= len(engine.profiles):
                yield f"instance_group names the profile {profile!r}, the engine has 0 to {len(engine.profiles) - 1}"
    for other in (other for other in models.values() if other.role == "tokenizer"):
        buckets = [int(part) for part in other.parameters.get("buckets", "").split(",") if part.isdecimal()]
        rows, most = model.config.max_batch_size, most_rows(engine, buckets) if buckets else 0
        if most < rows:
            yield f"max_batch_size is {rows}, the engine takes {most} rows of every bucket of {other.name}"
