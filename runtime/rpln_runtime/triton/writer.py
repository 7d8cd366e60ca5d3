"""Writes a bundle as a model repository of Triton Inference Server."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rpln_runtime._version import __version__
from rpln_runtime.engines.manifest import graph_files, write_engine
from rpln_runtime.manifest import MANIFEST_NAME
from rpln_runtime.triton.configs import answers_config, ensemble_config, model_config, tokenizer_config
from rpln_runtime.triton.engine_config import ENGINE_FILE, PLAN_FILE, engine_config
from rpln_runtime.triton.generator_config import generator_config
from rpln_runtime.triton.labels import LABELS_FILE, labels_of
from rpln_runtime.triton.parts import warmup_files
from rpln_runtime.triton.pbtxt import Message, text_from_message
from rpln_runtime.triton.plan import RepositoryPlan, make_plan
from rpln_runtime.triton.publishing import MARKER, published
from rpln_runtime.triton.readme import readme
from rpln_runtime.triton.steps.generator import BUNDLE

CONFIG: Final = "config.pbtxt"
CPU_CONFIG: Final = "configs/cpu.pbtxt"
VERSION: Final = "1"
_TOKENIZER: Final = "tokenizer.json"

_STEP_CODE: Final = '''"""Written by rpln triton. The code is in rpln_runtime, which the server's Python needs."""

from rpln_runtime.triton.steps.{base_module} import {base}
from rpln_runtime.triton.steps.{module} import {step}


class TritonPythonModel({base}):
    """The class that Triton's python backend looks for."""

    make_step = {step}
'''


def write_repository(
    folder: str | Path,
    destination: str | Path,
    *,
    name: str | None = None,
    batch_size: int | None = None,
    buckets: Sequence[int] | None = None,
    max_text_bytes: int | None = None,
    options: Mapping[str, Any] | None = None,
    engine: str | None = None,
) -> list[str]:
    """Write the bundle in `folder` as the model repository `destination` and return the names of its models.

    Args:
        folder: the folder of the bundle.
        destination: the folder to write. An older repository there is replaced.
        name: the name that clients ask for. None: the name of the bundle's folder.
        batch_size: the most rows that the model takes at a time. None: 32, or 8 where text is generated.
        buckets: the lengths in tokens that rows are padded to, in rising order. None: powers of two from 32.
        max_text_bytes: the most bytes that the texts of a request have together; more are refused before they are
            tokenized. None: 16 for each token of the rows that the model takes at a time, and at least 65,536.
        options: the options of the task for requests that have none of their own.
        engine: the TensorRT engine of the bundle to serve instead of the graph, by its file's name without .plan.

    Raises ManifestError for a bundle that is broken or cannot be served, InputError for a choice that does not fit it,
    and RepositoryDestinationError where the repository cannot be written.
    """
    plan = make_plan(
        Path(folder),
        name=name,
        batch_size=batch_size,
        buckets=buckets,
        max_text_bytes=max_text_bytes,
        options=options or {},
        engine=engine,
    )
    with published(Path(destination)) as partial:
        roles = {writer(plan, partial): role for role, writer in _writers(plan).items()}
        (partial / "README.md").write_text(readme(plan), encoding="utf-8")
        marker = {"rpln_runtime": __version__, "models": roles, "source": dataclasses.asdict(plan.manifest.source)}
        (partial / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
    return list(roles)


def _write_ensemble(plan: RepositoryPlan, repository: Path) -> str:
    version = _write_configs(repository, ensemble_config(plan))
    # Triton needs a folder for the version, even an empty one, and object stores do not keep empty folders.
    (version / ".keep").touch()
    return version.parent.name


def _write_tokenizer(plan: RepositoryPlan, repository: Path) -> str:
    version = _write_configs(repository, tokenizer_config(plan))
    _write_step(plan, version, module="tokenizer", step="TokenizerStep")
    return version.parent.name


def _write_answers(plan: RepositoryPlan, repository: Path) -> str:
    version = _write_configs(repository, answers_config(plan))
    _write_step(plan, version, module="answers", step="AnswerStep")
    return version.parent.name


def _write_model(plan: RepositoryPlan, repository: Path) -> str:
    version = _write_configs(repository, *(model_config(plan, provider) for provider in plan.providers))
    for path in _graph_files(plan):
        _copy(path, plan.folder, version)
    _write_step_manifest(plan, version)
    _write_model_files(plan, version.parent)
    return version.parent.name


def _write_engine(plan: RepositoryPlan, repository: Path) -> str:
    assert plan.engine is not None
    version = _write_configs(repository, engine_config(plan))
    shutil.copyfile(plan.folder / plan.engine.plan.path, version / PLAN_FILE)
    write_engine(version / ENGINE_FILE, plan.engine)
    _write_step_manifest(plan, version)
    _write_model_files(plan, version.parent)
    return version.parent.name


def _write_model_files(plan: RepositoryPlan, model: Path) -> None:
    """Write the files beside the versions: labels, and tensors for warm-up requests."""
    if labels := labels_of(plan.manifest):
        (model / LABELS_FILE).write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    (model / "warmup").mkdir()
    for name, content in warmup_files(plan.graph.inputs, plan.buckets).items():
        (model / "warmup" / name).write_bytes(content)


def _write_generator(plan: RepositoryPlan, repository: Path) -> str:
    version = _write_configs(repository, *(generator_config(plan, provider) for provider in plan.providers))
    code = _STEP_CODE.format(base_module="streaming", base="GeneratorModel", module="generator", step="GeneratorStep")
    (version / "model.py").write_text(code, encoding="utf-8")
    for path in (MANIFEST_NAME, *(file.path for file in plan.manifest.files)):
        _copy(path, plan.folder, version / BUNDLE)
    return version.parent.name


_Writer = Callable[[RepositoryPlan, Path], str]
_ENCODER: Final[dict[str, _Writer]] = {
    "ensemble": _write_ensemble,
    "tokenizer": _write_tokenizer,
    "onnx": _write_model,
    "answers": _write_answers,
}
_ENGINE: Final[dict[str, _Writer]] = {
    "ensemble": _write_ensemble,
    "tokenizer": _write_tokenizer,
    "tensorrt": _write_engine,
    "answers": _write_answers,
}
_GENERATOR: Final[dict[str, _Writer]] = {"generator": _write_generator}


def _writers(plan: RepositoryPlan) -> dict[str, _Writer]:
    """Return the functions that write the models of a repository, by role. Each returns the name of its model."""
    if plan.engine is not None:
        return _ENGINE
    return _GENERATOR if plan.generates else _ENCODER


def _write_configs(repository: Path, config: Message, cpu: Message | None = None) -> Path:
    """Write a model's configuration, and that for servers without a GPU if given; return the folder of its version."""
    model = repository / str(config["name"])
    version = model / VERSION
    version.mkdir(parents=True)
    (model / CONFIG).write_text(text_from_message(config), encoding="utf-8")
    if cpu is not None:
        (model / CPU_CONFIG).parent.mkdir()
        (model / CPU_CONFIG).write_text(text_from_message(cpu), encoding="utf-8")
    return version


def _write_step(plan: RepositoryPlan, version: Path, *, module: str, step: str) -> None:
    code = _STEP_CODE.format(base_module="serving", base="StepModel", module=module, step=step)
    (version / "model.py").write_text(code, encoding="utf-8")
    _write_step_manifest(plan, version)
    _copy(_TOKENIZER, plan.folder, version)


def _write_step_manifest(plan: RepositoryPlan, version: Path) -> None:
    """Write the manifest of the bundle. Most files that it lists are in folders of other models."""
    document = json.dumps(dataclasses.asdict(plan.manifest), indent=2)
    (version / MANIFEST_NAME).write_text(f"{document}\n", encoding="utf-8")


def _copy(path: str, source: Path, target: Path) -> None:
    (target / path).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / path, target / path)


def _graph_files(plan: RepositoryPlan) -> list[str]:
    """Return the paths of the ONNX files that the configurations name, and of the weights that these read."""
    graphs = {plan.graph.path_for(provider) for provider in plan.providers}
    return sorted({file.path for path in graphs for file in graph_files(path, plan.manifest)})
