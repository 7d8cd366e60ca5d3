"""WRITTEN: what is written of each model of a repository, by its role.

`writer` writes it, and `checking` compares it with what is there.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, TypeAlias

from rpln_runtime.engines.manifest import graph_files
from rpln_runtime.errors import ManifestError
from rpln_runtime.manifest import MANIFEST_NAME, BundleFile, Manifest
from rpln_runtime.triton.configs import answers_config, ensemble_config, model_config, tokenizer_config
from rpln_runtime.triton.engine_config import ENGINE_FILE, PLAN_FILE, engine_config
from rpln_runtime.triton.generator_config import generator_config
from rpln_runtime.triton.labels import LABELS_FILE, labels_of
from rpln_runtime.triton.parts import warmup_files
from rpln_runtime.triton.pbtxt import Message
from rpln_runtime.triton.plan import RepositoryPlan
from rpln_runtime.triton.steps.generator import BUNDLE

CONFIG: Final = "config.pbtxt"
CPU_CONFIG: Final = "configs/cpu.pbtxt"
CODE: Final = "model.py"
TOKENIZER: Final = "tokenizer.json"

Content: TypeAlias = bytes | BundleFile
"""What a file holds: these bytes, or a copy of this file of the bundle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenModel:
    """What is written of a model.

    Attributes:
        name: the name of its folder.
        configs: its configurations, by their files in that folder.
        version: the files in the folder of each version.
        beside: the other files in the folder.
    """

    name: str
    configs: Mapping[str, Message]
    version: Mapping[str, Content]
    beside: Mapping[str, Content] = dataclasses.field(default_factory=dict)


def roles_of(plan: RepositoryPlan) -> tuple[str, ...]:
    """Return the roles of the models of a repository, which are keys of WRITTEN."""
    if plan.generates:
        return ("generator",)
    return ("ensemble", "tokenizer", "onnx" if plan.engine is None else "tensorrt", "answers")


def manifest_bytes(manifest: Manifest) -> bytes:
    """Return the content of `rpln.json` beside a version's files. Most files that it lists are in other folders."""
    return f"{json.dumps(dataclasses.asdict(manifest), indent=2)}\n".encode()


def _ensemble(plan: RepositoryPlan) -> WrittenModel:
    # Triton needs a folder for the version, even an empty one, and object stores do not keep empty folders.
    return WrittenModel(name=plan.names.served, configs={CONFIG: ensemble_config(plan)}, version={".keep": b""})


def _tokenizer(plan: RepositoryPlan) -> WrittenModel:
    return WrittenModel(
        name=plan.names.tokenizer,
        configs={CONFIG: tokenizer_config(plan)},
        version=_step(plan, "tokenizer", "TokenizerStep"),
    )


def _answers(plan: RepositoryPlan) -> WrittenModel:
    return WrittenModel(
        name=plan.names.answers, configs={CONFIG: answers_config(plan)}, version=_step(plan, "answers", "AnswerStep")
    )


def _onnx(plan: RepositoryPlan) -> WrittenModel:
    """Return the graph: the ONNX files that the configurations name, and the weights that these read."""
    paths = {plan.graph.path_for(provider) for provider in plan.providers}
    files = {file.path: file for path in sorted(paths) for file in graph_files(path, plan.manifest)}
    return WrittenModel(
        name=plan.names.model,
        configs={
            file: model_config(plan, provider)
            for file, provider in zip((CONFIG, CPU_CONFIG), plan.providers, strict=False)
        },
        version={**files, MANIFEST_NAME: manifest_bytes(plan.manifest)},
        beside=_around_graph(plan),
    )


def _tensorrt(plan: RepositoryPlan) -> WrittenModel:
    assert plan.engine is not None
    path = PurePosixPath(plan.engine.plan.path)
    return WrittenModel(
        name=plan.names.model,
        configs={CONFIG: engine_config(plan)},
        version={
            PLAN_FILE: _listed(plan.manifest, str(path)),
            ENGINE_FILE: _listed(plan.manifest, str(path.with_suffix(".json"))),
            MANIFEST_NAME: manifest_bytes(plan.manifest),
        },
        beside=_around_graph(plan),
    )


def _generator(plan: RepositoryPlan) -> WrittenModel:
    """Return the generator, which has the whole bundle in a folder of its version."""
    bundle: dict[str, Content] = {file.path: file for file in plan.manifest.files}
    bundle[MANIFEST_NAME] = manifest_bytes(plan.manifest)
    return WrittenModel(
        name=plan.names.served,
        configs={
            file: generator_config(plan, provider)
            for file, provider in zip((CONFIG, CPU_CONFIG), plan.providers, strict=False)
        },
        version={
            CODE: _code("streaming", "GeneratorModel", "generator", "GeneratorStep"),
            **{f"{BUNDLE}/{path}": content for path, content in bundle.items()},
        },
    )


WRITTEN: Final[dict[str, Callable[[RepositoryPlan], WrittenModel]]] = {
    "ensemble": _ensemble,
    "tokenizer": _tokenizer,
    "onnx": _onnx,
    "tensorrt": _tensorrt,
    "answers": _answers,
    "generator": _generator,
}
"""The functions that return what is written of a model, by its role, which the marker of a repository names."""


def _step(plan: RepositoryPlan, module: str, step: str) -> dict[str, Content]:
    return {
        CODE: _code("serving", "StepModel", module, step),
        MANIFEST_NAME: manifest_bytes(plan.manifest),
        TOKENIZER: _listed(plan.manifest, TOKENIZER),
    }


def _around_graph(plan: RepositoryPlan) -> dict[str, Content]:
    """Return the files beside the versions of a graph: labels, and tensors for warm-up requests."""
    labels = "".join(f"{label}\n" for label in labels_of(plan.manifest))
    warmups = warmup_files(plan.graph.inputs, plan.buckets)
    return {
        **({LABELS_FILE: labels.encode()} if labels else {}),
        **{f"warmup/{name}": content for name, content in warmups.items()},
    }


def _listed(manifest: Manifest, path: str) -> BundleFile:
    """Return the description of a file of the bundle. Raises ManifestError where the bundle does not have it."""
    for file in manifest.files:
        if file.path == path:
            return file
    raise ManifestError(f"{MANIFEST_NAME} lists no {path}, which a repository of this bundle needs.")


_STEP_CODE: Final = '''"""Written by rpln triton. The code is in rpln_runtime, which the server's Python needs."""

from rpln_runtime.triton.steps.{base_module} import {base}
from rpln_runtime.triton.steps.{module} import {step}


class TritonPythonModel({base}):
    """The class that Triton's python backend looks for."""

    make_step = {step}
'''


def _code(base_module: str, base: str, module: str, step: str) -> bytes:
    return _STEP_CODE.format(base_module=base_module, base=base, module=module, step=step).encode()
