"""A model of a repository as the checks see it: its configurations, its versions and the manifests beside these."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from rpln_runtime.engines.manifest import EngineManifest, read_engine
from rpln_runtime.errors import ManifestError
from rpln_runtime.manifest import MANIFEST_NAME, SCHEMA_VERSION, Manifest
from rpln_runtime.tasks import TASKS
from rpln_runtime.triton.checks.files import A_FOLDER, what_hinders
from rpln_runtime.triton.checks.reading import Config, read_config
from rpln_runtime.triton.contents import CONFIG, CPU_CONFIG
from rpln_runtime.triton.engine_config import ENGINE_FILE
from rpln_runtime.triton.errors import RepositoryError
from rpln_runtime.triton.steps.bundle import manifest_of_step
from rpln_runtime.triton.steps.generator import BUNDLE

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model of a repository. What could not be read is left out, and `problems` says why.

    Attributes:
        role: a key of `rpln_runtime.triton.contents.WRITTEN`.
        configs: the configurations, by their files.
        versions: the numbers of the versions.
        manifests: the manifest of the bundle of each version; none for an ensemble.
        engines: the manifest of the engine of each version; none for a model that has none.
    """

    folder: Path
    role: str
    configs: dict[str, Config]
    versions: tuple[int, ...]
    manifests: dict[int, Manifest]
    engines: dict[int, EngineManifest]
    problems: list[str]

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.name

    @property
    def manifest_path(self) -> str:
        """The path of the manifest in the folder of a version."""
        return f"{BUNDLE}/{MANIFEST_NAME}" if self.role == "generator" else MANIFEST_NAME

    def config_for(self, server: str) -> tuple[str, Config | None]:
        """Return the file that a server reads which prefers the configuration `server`, and what it holds if known."""
        file = server if (self.folder / server).is_file() else CONFIG
        return f"{self.name}/{file}", self.configs.get(file)


def read_model(folder: Path, role: str) -> Model:
    """Read the model in `folder`, but for the files that `compare_files` compares. Raises MissingExtraError."""
    model = Model(
        folder=folder, role=role, configs={}, versions=_versions(folder), manifests={}, engines={}, problems=[]
    )
    for file in (CONFIG, CPU_CONFIG):
        if file == CONFIG or os.path.lexists(folder / file):
            _add(model, model.configs, file, file, partial(read_config, where=f"{folder.name}/{file}"))
    for version in model.versions:
        if role != "ensemble":
            path = f"{version}/{model.manifest_path}"
            _add(model, model.manifests, version, path, lambda path: _manifest(path, role))
        if role == "tensorrt":
            _add(model, model.engines, version, f"{version}/{ENGINE_FILE}", read_engine)
    return model


def _add(model: Model, found: dict[_Key, _Value], key: _Key, path: str, read: Callable[[Path], _Value]) -> None:
    """Add to `found` what `read` returns of a file, or to the problems why it cannot be read."""
    file, where = model.folder / path, f"{model.name}/{path}"
    if not os.path.lexists(file):
        model.problems.append(f"{where}: it is missing")
    elif hindrance := what_hinders(file, model.folder.parent):
        model.problems.append(f"{where}: {hindrance}")
    elif file.is_dir():
        model.problems.append(f"{where}: {A_FOLDER}")
    else:
        try:
            found[key] = read(file)
        except RepositoryError as error:
            model.problems.append(str(error))
        except ManifestError as error:
            model.problems.append(f"{where}: {error}")


def _versions(folder: Path) -> tuple[int, ...]:
    """Return the numbers of the folders that Triton takes for versions."""
    names = [path.name for path in folder.iterdir() if path.is_dir()]
    return tuple(sorted(int(name) for name in names if name.isascii() and name.isdecimal() and name[0] != "0"))


def _manifest(path: Path, role: str) -> Manifest:
    """Read a manifest. Raises ManifestError for one that a model of this role cannot have."""
    manifest = manifest_of_step(path.parent)
    if manifest.schema_version != SCHEMA_VERSION:
        raise ManifestError(f"it has schema version {manifest.schema_version}, expected {SCHEMA_VERSION}")
    if manifest.task not in TASKS or TASKS[manifest.task].generates != (role == "generator") or not manifest.graphs:
        raise ManifestError(f"it is that of a bundle for {manifest.task!r}, which has no model of this kind")
    return manifest
