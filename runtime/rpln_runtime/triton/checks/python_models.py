"""Models in Python, the steps around a model and the generator: compared with the bundle's manifest beside them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from rpln_runtime._version import __version__
from rpln_runtime.engines.providers import PROVIDERS
from rpln_runtime.errors import InputError, RplnError
from rpln_runtime.manifest import Manifest, read_manifest
from rpln_runtime.triton.checks.common import check_parameters
from rpln_runtime.triton.checks.model import Model
from rpln_runtime.triton.checks.tensors import compare_tensors
from rpln_runtime.triton.configs import answers_config, tokenizer_config
from rpln_runtime.triton.generator_config import generator_config
from rpln_runtime.triton.names import Names
from rpln_runtime.triton.parts import VERSION_PARAMETER, kind_of_provider
from rpln_runtime.triton.pbtxt import Message
from rpln_runtime.triton.plan import RepositoryPlan, check_plan
from rpln_runtime.triton.request import options_from_text
from rpln_runtime.triton.steps.bundle import manifest_of_step
from rpln_runtime.triton.steps.generator import BUNDLE

# https://github.com/triton-inference-server/python_backend
_BACKEND_PARAMETERS: Final = frozenset({"EXECUTION_ENV_PATH", "FORCE_CPU_ONLY_INPUT_TENSORS"})
_TOKENIZER, _ANSWERS, _GENERATOR = (
    frozenset({VERSION_PARAMETER, "options", *names})
    for names in (("buckets", "most_rows", "max_text_bytes"), (), ("batch_size", "max_text_bytes", "provider"))
)


def check_tokenizer(model: Model) -> Iterator[str]:
    """Yield the problems of the first step."""
    yield from _check_python(model, _TOKENIZER, tokenizer_config)
    most, rows = model.parameters.get("most_rows"), model.config.max_batch_size
    if most != str(rows):
        yield f"parameter 'most_rows' is {most!r}, expected max_batch_size, {rows}: the model refuses more rows"


def check_answers(model: Model) -> Iterator[str]:
    """Yield the problems of the last step."""
    yield from _check_python(model, _ANSWERS, answers_config)


def check_generator(model: Model) -> Iterator[str]:
    """Yield the problems of a model that generates text."""
    yield from _check_python(model, _GENERATOR, lambda plan: generator_config(plan, "cpu"))
    if not model.config.model_transaction_policy.decoupled:
        yield "model_transaction_policy is not decoupled: a request would get one piece of its text"
    if model.config.response_cache.enable:
        yield "response_cache is for models that answer a request once"
    provider = model.parameters.get("provider", "")
    expected = kind_of_provider(provider) if provider in PROVIDERS else None
    for kind in model.kinds:
        if kind != expected:
            yield f"parameter 'provider' is {provider!r} on instances of {kind}"


def _check_python(
    model: Model, keys: frozenset[str], make_config: Callable[[RepositoryPlan], Message]
) -> Iterator[str]:
    if model.config.backend != "python":
        yield f'backend is {model.config.backend!r}, expected "python"'
    yield from check_parameters(model, _BACKEND_PARAMETERS, keys)
    if (written := model.parameters.get(VERSION_PARAMETER)) != __version__:
        yield f"it was written by rpln-runtime {written}, and {__version__} is installed: the steps refuse to run"
    for version in model.versions:
        if not (version / "model.py").is_file():
            yield f"{version.name}/model.py does not exist"
        try:
            yield from compare_tensors(model, make_config(_plan(model, version)), "the code")
        except RplnError as error:
            yield str(error)


def _plan(model: Model, version: Path) -> RepositoryPlan:
    """Return the choices that a model was written with. Raises RplnError for one that its bundle does not allow."""
    folder, manifest = _bundle(version)
    plan = RepositoryPlan(
        folder=folder,
        manifest=manifest,
        names=Names(model.name),
        batch_size=_number(model.parameters.get("batch_size", "1"), "batch_size"),
        buckets=tuple(_number(part, "buckets") for part in model.parameters.get("buckets", "").split(",") if part),
        max_text_bytes=_number(model.parameters.get("max_text_bytes", "1"), "max_text_bytes"),
        options=options_from_text(model.parameters.get("options", "").encode()),
    )
    check_plan(plan)
    return plan


def _bundle(version: Path) -> tuple[Path, Manifest]:
    whole = version / BUNDLE
    return (whole, read_manifest(whole)) if whole.is_dir() else (version, manifest_of_step(version))


def _number(text: str, name: str) -> int:
    if not text.isdecimal():
        raise InputError(f"parameter {name!r} holds {text!r}, expected a number.")
    return int(text)
