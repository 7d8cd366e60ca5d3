"""A model that TensorRT runs: its plan, the engine's own account of it, and the lengths that come there."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from rpln_runtime.engines.manifest import read_engine
from rpln_runtime.errors import RplnError
from rpln_runtime.manifest import bundle_file_from_path
from rpln_runtime.triton.checks.common import check_parameters
from rpln_runtime.triton.checks.model import Model
from rpln_runtime.triton.checks.onnx_model import check_labels, check_warmup
from rpln_runtime.triton.checks.tensors import compare_tensors
from rpln_runtime.triton.engine_choice import most_rows
from rpln_runtime.triton.engine_config import ENGINE_FILE, PLAN_FILE
from rpln_runtime.triton.parts import tensor_from_spec
from rpln_runtime.triton.steps.bundle import manifest_of_step


def check_engine_model(model: Model, models: Mapping[str, Model]) -> Iterator[str]:
    """The problems of a configuration for the tensorrt backend."""
    if (model.config.get("platform"), model.config.get("backend")) != ("tensorrt_plan", "tensorrt"):
        yield 'platform and backend are expected to be "tensorrt_plan" and "tensorrt"'
    for group in model.config.get("instance_group", []):
        if group.get("kind") != "KIND_GPU":
            yield f"instance_group is of {group.get('kind')}, an engine runs on a GPU: KIND_GPU"
    for version in model.versions:
        try:
            yield from _check_version(model, models, version)
        except RplnError as error:
            yield str(error)
    yield from check_parameters(model, frozenset())
    yield from check_labels(model)
    yield from check_warmup(model)


def _check_version(model: Model, models: Mapping[str, Model], version: Path) -> Iterator[str]:
    path = version / model.config.get("default_model_filename", PLAN_FILE)
    if not path.is_file():
        yield f"{version.name}/{path.name} does not exist"
        return
    engine, graph = read_engine(version / ENGINE_FILE), manifest_of_step(version).graphs[0]
    if bundle_file_from_path(version, path).sha256 != engine.plan.sha256:
        yield f"{version.name}/{path.name} is not the plan that {ENGINE_FILE} describes (SHA-256)"
    for side, specs in (("input", graph.inputs), ("output", graph.outputs)):
        expected = [tensor_from_spec(spec) for spec in specs]
        yield from compare_tensors(side, model.config.get(side, []), expected, "the engine")
    for group in model.config.get("instance_group", []):
        for profile in group.get("profile", []):
            if not profile.isdecimal() or int(profile) >= len(engine.profiles):
                yield f"instance_group names the profile {profile!r}, the engine has 0 to {len(engine.profiles) - 1}"
    for other in (other for other in models.values() if other.role == "tokenizer"):
        buckets = [int(part) for part in (other.parameters.get("buckets") or "").split(",") if part.isdecimal()]
        rows, most = model.config.get("max_batch_size", 0), most_rows(engine, buckets) if buckets else 0
        if most < rows:
            yield f"max_batch_size is {rows}, the engine takes {most} rows of every bucket of {other.name}"
