"""Checks a repository that `rpln triton` wrote and somebody may have edited since.

What is written follows from the manifest of the bundle, which lies beside each version, and from a few choices, which
the configurations tell. So it is made once more and compared: files by their hashes or texts, and configurations field
by field, but for what an operator may change (`checks.fields`). Nothing in the repository is executed.
"""

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from rpln_runtime._version import __version__
from rpln_runtime.documents import read_document
from rpln_runtime.errors import InputError, RplnError
from rpln_runtime.limits import MANIFEST
from rpln_runtime.manifest import Manifest
from rpln_runtime.tasks import TASKS
from rpln_runtime.triton.checks.choices import Choices, buckets_of, choices_of
from rpln_runtime.triton.checks.configs import Comparison, config_from_message
from rpln_runtime.triton.checks.files import compare_files, what_hinders
from rpln_runtime.triton.checks.model import Model, read_model
from rpln_runtime.triton.checks.problems import Problem
from rpln_runtime.triton.checks.reading import Config
from rpln_runtime.triton.contents import (
    CONFIG,
    CPU_CONFIG,
    TOKENIZER,
    WRITTEN,
    Content,
    WrittenModel,
    manifest_bytes,
    roles_of,
)
from rpln_runtime.triton.errors import RepositoryError
from rpln_runtime.triton.names import Names
from rpln_runtime.triton.parts import warmup_files
from rpln_runtime.triton.plan import RepositoryPlan, check_plan
from rpln_runtime.triton.publishing import MARKER
from rpln_runtime.triton.writer import VERSION

_SERVED: Final = ("ensemble", "generator")
"""The roles of the model that clients ask, of which a repository has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Marker:
    """What the marker of a repository says.

    Attributes:
        models: the roles of its models, by their names.
        manifest: the SHA-256 of the manifest of the bundle.
    """

    models: Mapping[str, str]
    manifest: str

    @property
    def names(self) -> Names:
        """The names of the models, by that of the one that clients ask."""
        return Names(next(name for name, role in self.models.items() if role in _SERVED))


def check_repository(repository: str | Path) -> list[str]:
    """Check every file in the folder `repository` and return the names of its models.

    Raises RepositoryError that lists all problems, one a line, and MissingExtraError without the extra `triton`.
    """
    repository = Path(repository)
    try:
        marker = _read_marker(repository)
    except ValueError as error:
        raise _refusal(repository, [f"{MARKER}: {error}"]) from error
    if problems := list(dict.fromkeys(map(str, _problems(repository, marker)))):
        raise _refusal(repository, problems)
    return list(marker.models)


def _refusal(repository: Path, problems: Sequence[str]) -> RepositoryError:
    count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
    lines = "".join(f"\n  {problem}" for problem in problems)
    return RepositoryError(f"{repository} has {count}:{lines}\nCorrect this, or write the repository anew.")


def _read_marker(repository: Path) -> _Marker:
    """Return what the marker says. Raises ValueError for one that cannot be read, or that another version wrote."""
    document: Any = read_document(repository / MARKER, MANIFEST)
    try:
        models = {Names(str(name)).served: str(role) for name, role in document["models"].items()}
        version, manifest = str(document["rpln_runtime"]), str(document.get("manifest"))
    except (InputError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"it is none that rpln triton wrote ({error})") from error
    if version != __version__:
        raise ValueError(f"rpln-runtime {version} wrote it, {__version__} is installed: the steps refuse to run")
    if document.get("manifest") is None:
        raise ValueError("an older rpln-runtime wrote it, without the SHA-256 of the manifest")
    roles = list(models.values())
    if not set(roles) <= WRITTEN.keys() or sum(map(roles.count, _SERVED)) != 1:
        raise ValueError(f"its models are {', '.join(roles)}: expected one of {' or '.join(_SERVED)}, and their steps")
    return _Marker(models=models, manifest=manifest)


def _problems(repository: Path, marker: _Marker) -> Iterator[Problem | str]:
    models = []
    for name, role in marker.models.items():
        if not (repository / name).is_dir():
            yield f"{name}: the folder is missing"
        elif hindrance := what_hinders(repository / name, repository):
            yield f"{name}: {hindrance}"
        else:
            models.append(read_model(repository / name, role))
    for path in sorted(repository.iterdir()):
        if path.is_dir() and path.name not in marker.models and not path.name.startswith("."):
            yield f"{path.name}: rpln triton did not write this model; serve it from another repository"
    for model in models:
        yield from model.problems
        if not model.versions:
            yield f"{model.name}: there is no version: expected a folder named {VERSION} beside the configuration"
    yield from _newest(models)
    plans = _plans(marker, models)
    if not plans:
        return
    yield from _unlike_the_marker(marker, models, plans)
    compared = [problem for model in models for problem in _compare(model, plans)]
    yield from compared
    wrong = {problem.file for problem in compared}
    for version, plan in plans.items():
        yield from _check_choices(models, version, plan, wrong)


def _newest(models: Sequence[Model]) -> Iterator[Problem]:
    """Yield the steps whose newest version is not that of the first one: an ensemble runs the newest of each."""
    steps = [model for model in models if model.role != "ensemble" and model.versions]
    for server in (CONFIG, CPU_CONFIG):
        newest = [_newest_served(model, model.config_for(server)[1]) for model in steps]
        for model, version in zip(steps, newest, strict=True):
            file, config = model.config_for(server)
            if version != newest[0]:
                yield Problem(
                    file,
                    f"the newest version that it serves is {version}, that of {steps[0].name} is {newest[0]}: the "
                    "steps belong to one bundle",
                    config.line_of(("version_policy",)) if config else None,
                )


def _newest_served(model: Model, config: Config | None) -> int | None:
    """Return the newest version that a server serves with this configuration; None if there is none."""
    chosen = config.values.get(("version_policy", "specific", "versions")) if config else None
    return max((version for version in model.versions if chosen is None or version in chosen), default=None)


def _plans(marker: _Marker, models: Sequence[Model]) -> dict[int, RepositoryPlan]:
    """Return what each version is written from. Its manifest is the one that was written, or that most steps have."""
    choices, plans = choices_of(models), {}
    for version in sorted({version for model in models for version in model.manifests}):
        found = [(model, model.manifests[version]) for model in models if version in model.manifests]
        texts = [manifest_bytes(manifest) for _, manifest in found]
        best = max(texts, key=lambda text: (_was_written(marker, version, text), texts.count(text)))
        plans[version] = _plan(marker, choices, version, found[texts.index(best)][1], models)
    return plans


def _plan(
    marker: _Marker, choices: Choices, version: int, manifest: Manifest, models: Sequence[Model]
) -> RepositoryPlan:
    steps = [model.folder / str(version) for model in models if model.role == "tokenizer"]
    engines = [model.engines[version] for model in models if version in model.engines]
    return RepositoryPlan(
        folder=steps[0] if steps else Path(),
        manifest=manifest,
        names=marker.names,
        batch_size=choices.batch_size,
        buckets=() if TASKS[manifest.task].generates else buckets_of(choices, manifest.usable_length),
        options=choices.options,
        engine=engines[0] if engines else None,
    )


def _was_written(marker: _Marker, version: int, manifest: bytes) -> bool:
    return str(version) == VERSION and hashlib.sha256(manifest).hexdigest() == marker.manifest


def _unlike_the_marker(
    marker: _Marker, models: Sequence[Model], plans: Mapping[int, RepositoryPlan]
) -> Iterator[Problem]:
    """Yield the models that the marker should not have, and manifests that were not written."""
    roles, expected = sorted(marker.models.values()), roles_of(plans[max(plans)])
    if roles != sorted(expected):
        yield Problem(MARKER, f"models are {', '.join(roles)}: expected {', '.join(expected)}")
    for version, plan in plans.items():
        if str(version) == VERSION and not _was_written(marker, version, manifest_bytes(plan.manifest)):
            for model in models:
                if version in model.manifests:
                    where = f"{model.name}/{version}/{model.manifest_path}"
                    yield Problem(where, f"it is not the manifest that was written, by the SHA-256 in {MARKER}")


def _compare(model: Model, plans: Mapping[int, RepositoryPlan]) -> Iterator[Problem]:
    """Yield where the files and configurations of a model differ from what is written for its versions."""
    newest = plans[max(plans)]
    lengths = _warmup_lengths(model)
    files: dict[str, Content | None] = {}
    needed: set[str] = set()
    for version in model.versions or (int(VERSION),):
        plan = plans.get(version, newest)
        if model.role == "tensorrt" and plan.engine is None:
            continue
        lengths_here = [length for length in lengths if 1 <= length <= plan.manifest.usable_length]
        try:
            written = WRITTEN[model.role](replace(plan, buckets=tuple(sorted({*plan.buckets, *lengths_here}))))
        except RplnError as error:
            yield Problem(f"{model.name}/{version}/{model.manifest_path}", str(error))
            continue
        if written.name != model.name:
            yield Problem(MARKER, f"{model.name} is its {model.role}: expected {written.name}")
        yield from _compare_configs(model, written, plan)
        files |= {**dict.fromkeys(written.configs), **written.beside}
        files |= {f"{version}/{path}": content for path, content in written.version.items()}
        needed |= {f"warmup/{name}" for name in warmup_files(plan.graph.inputs, lengths_here)}
    if files:
        optional = {path for path in files if path.startswith("warmup/")} - needed
        yield from compare_files(model.folder, files, optional)


def _warmup_lengths(model: Model) -> set[int]:
    """Return the lengths of the warm-up requests of a model, which are named after them."""
    keys = {key for config in model.configs.values() for key in config.elements("model_warmup")}
    return {int(match[1]) for key in keys if (match := re.match(r'\["([0-9]{1,9}) tokens"', key))}


def _compare_configs(model: Model, written: WrittenModel, plan: RepositoryPlan) -> Iterator[Problem]:
    for file, config in model.configs.items():
        if file not in written.configs:
            continue
        groups = config.elements("instance_group")
        kinds = {config.values.get(("instance_group", group, "kind")) for group in groups}
        of_cpu = kinds == {"KIND_CPU"} and CPU_CONFIG in written.configs
        yield from Comparison(
            file=f"{model.name}/{file}",
            role=model.role,
            found=config,
            written=config_from_message(written.configs[CPU_CONFIG if of_cpu else file]),
            versions=model.versions,
            plan=plan,
        ).problems()


def _check_choices(
    models: Sequence[Model], version: int, plan: RepositoryPlan, wrong: Collection[str]
) -> Iterator[Problem]:
    """Yield the choice that the bundle does not allow, where its tokenizer is the right one."""
    for model in models:
        if model.role not in ("tokenizer", "generator") or f"{model.name}/{version}/{TOKENIZER}" in wrong:
            continue
        try:
            check_plan(plan)
        except RplnError as error:
            file, config = model.config_for(CONFIG)
            line = config.line_of(("parameters", '["options"]')) if config else None
            yield Problem(file, str(error).rstrip("."), line)
