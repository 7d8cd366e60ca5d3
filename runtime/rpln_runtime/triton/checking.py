"""Checks a repository that `rpln triton` wrote and somebody may have edited since.

Triton refuses some mistakes itself. It serves others silently: a misspelt parameter, a batcher for a model that does
not batch, an output that is left out, too few labels, settings of a GPU on the CPU.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from rpln_runtime.documents import read_document
from rpln_runtime.limits import MANIFEST
from rpln_runtime.triton.checks.common import check_common
from rpln_runtime.triton.checks.engine_model import check_engine_model
from rpln_runtime.triton.checks.ensemble import check_ensemble
from rpln_runtime.triton.checks.model import Model
from rpln_runtime.triton.checks.onnx_model import check_onnx_model
from rpln_runtime.triton.checks.python_models import check_answers, check_generator, check_tokenizer
from rpln_runtime.triton.checks.reading import read_config
from rpln_runtime.triton.errors import RepositoryError
from rpln_runtime.triton.publishing import MARKER

_Check = Callable[[Model, Mapping[str, Model]], Iterator[str]]
ROLES: Final[dict[str, _Check]] = {
    "ensemble": check_ensemble,
    "tokenizer": lambda model, _: check_tokenizer(model),
    "tensorrt": check_engine_model,
    "onnx": lambda model, _: check_onnx_model(model),
    "answers": lambda model, _: check_answers(model),
    "generator": lambda model, _: check_generator(model),
}
"""The checks of a model besides `check_common`, by its role, which the marker of the repository names."""


def check_repository(repository: str | Path) -> list[str]:
    """Check every configuration in the folder `repository` and return the names of its models.

    Raises RepositoryError that lists all problems, one a line, and MissingExtraError without the extra `triton`.
    """
    repository = Path(repository)
    roles = _roles(repository)
    problems = [
        *(f"{name}: the folder is missing" for name in roles if not (repository / name).is_dir()),
        *(
            f"{name}: rpln triton did not write this model; serve it from another repository"
            for name in _others(repository, roles)
        ),
    ]
    # A server reads one configuration of each model: config.pbtxt, or with --model-config-name=cpu the one for the CPU.
    for pick in ("config.pbtxt", "cpu.pbtxt"):
        models: dict[str, Model] = {}
        for name, role in roles.items():
            try:
                models |= {name: _read(repository / name, role, pick)}
            except RepositoryError as error:
                problems.append(str(error))
        problems += _problems(models)
    if problems:
        lines = "".join(f"\n  {problem}" for problem in dict.fromkeys(problems))
        raise RepositoryError(
            f"{repository} has {len(dict.fromkeys(problems))} problems:{lines}\nCorrect them, or write it anew."
        )
    return list(roles)


def _problems(models: Mapping[str, Model]) -> Iterator[str]:
    for model in models.values():
        where = model.file.relative_to(model.folder.parent)
        for problem in (*check_common(model), *ROLES[model.role](model, models)):
            yield f"{where}: {problem}"


def _roles(repository: Path) -> dict[str, str]:
    try:
        document: Any = read_document(repository / MARKER, MANIFEST)
        roles = {str(name): str(role) for name, role in document["models"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RepositoryError(
            f"{repository} holds no {MARKER} ({error}): expected a repository that rpln triton wrote."
        ) from error
    if unknown := set(roles.values()) - ROLES.keys():
        raise RepositoryError(f"{repository / MARKER} has models that are {', '.join(unknown)}: update rpln-runtime.")
    return roles


def _others(repository: Path, roles: Mapping[str, str]) -> list[str]:
    return sorted(path.name for path in repository.iterdir() if path.is_dir() and path.name not in roles)


def _read(folder: Path, role: str, pick: str) -> Model:
    chosen = folder / "configs" / pick
    file = chosen if chosen.is_file() else folder / "config.pbtxt"
    return Model(name=folder.name, role=role, folder=folder, file=file, config=read_config(file))
