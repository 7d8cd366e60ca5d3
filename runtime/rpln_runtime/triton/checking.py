"""Checks a repository that `rpln triton` wrote and somebody may have edited since.

What is written follows from the manifest of the bundle, which lies beside each version, and from a few choices, which
the configurations tell. So it is made once more and compared: files by their hashes or texts, and configurations field
by field, but for what an operator may change (`checks.fields`). Nothing in the repository is executed.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rpln_runtime.errors import RplnError
from rpln_runtime.triton.checks.configs import Comparison, config_from_message
from rpln_runtime.triton.checks.files import compare_files, what_hinders
from rpln_runtime.triton.checks.marker import Marker, read_marker, unlike_the_marker
from rpln_runtime.triton.checks.model import Model, read_model
from rpln_runtime.triton.checks.plans import plans_of
from rpln_runtime.triton.checks.problems import Problem
from rpln_runtime.triton.checks.versions import compare_versions
from rpln_runtime.triton.contents import CONFIG, CPU_CONFIG, TOKENIZER, WRITTEN, Content, WrittenModel
from rpln_runtime.triton.errors import RepositoryError
from rpln_runtime.triton.parts import warmup_files
from rpln_runtime.triton.plan import RepositoryPlan, check_plan
from rpln_runtime.triton.publishing import MARKER
from rpln_runtime.triton.writer import VERSION


def check_repository(repository: str | Path) -> list[str]:
    """Check every file in the folder `repository` and return the names of its models.

    Raises RepositoryError that lists all problems, one a line, and MissingExtraError without the extra `triton`.
    """
    repository = Path(repository)
    try:
        marker = read_marker(repository)
    except ValueError as error:
        raise _refusal(repository, [f"{MARKER}: {error}"]) from error
    if problems := list(dict.fromkeys(map(str, _problems(repository, marker)))):
        raise _refusal(repository, problems)
    return list(marker.models)


def _refusal(repository: Path, problems: Sequence[str]) -> RepositoryError:
    count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
    lines = "".join(f"\n  {problem}" for problem in problems)
    return RepositoryError(f"{repository} has {count}:{lines}\nCorrect this, or write the repository anew.")


def _problems(repository: Path, marker: Marker) -> Iterator[Problem | str]:
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
    yield from compare_versions(models)
    plans = plans_of(marker, models)
    if not plans:
        return
    yield from unlike_the_marker(marker, models, plans)
    compared = [problem for model in models for problem in _compare(model, plans)]
    yield from compared
    wrong = {problem.file for problem in compared}
    for version, plan in plans.items():
        yield from _check_choices(models, version, plan, wrong)


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
        if model.role not in ("tokenizer", "generator") or version not in model.versions:
            continue
        if f"{model.name}/{version}/{TOKENIZER}" in wrong:
            continue
        try:
            check_plan(plan)
        except RplnError as error:
            file, config = model.config_for(CONFIG)
            line = config.line_of(("parameters", '["options"]')) if config else None
            yield Problem(file, str(error).rstrip("."), line)
