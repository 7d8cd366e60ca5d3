"""`pipeline` by the name of a task: what type checkers accept, and what a bundle of another task gets."""

import dataclasses
import re
import typing
from collections.abc import Callable
from pathlib import Path

import mypy.api
import pytest

from rpln_runtime import GenerationOptions, InputError, Pipeline, option_types, pipeline
from rpln_runtime.postprocess import POSTPROCESS
from rpln_runtime.postprocess.base import Postprocess
from rpln_runtime.tasks import TASKS
from tests.runtime.bundles import CORPUS, Bundle

ROOT = Path(__file__).parents[2]
INHERITED = {field.name for field in dataclasses.fields(Postprocess)}
CLASSES = [*POSTPROCESS.values(), GenerationOptions]

SNIPPET = """
from typing import assert_type, Any
from rpln_runtime import Generator, Pipeline, pipeline

assert_type(pipeline("x", task="token-classification", aggregation_strategy="simple", stride=8), Pipeline)
assert_type(pipeline("x", task="text-classification", top_k=None, batch_size=4, provider="cpu"), Pipeline)
assert_type(pipeline("x", task="text-classification", top_k="best"), Pipeline)
assert_type(pipeline("x", task="fill-mask", targets=["a"]), Pipeline)
assert_type(pipeline("x", task="feature-extraction", normalize=True), Pipeline)
assert_type(pipeline("x", task="question-answering", doc_stride=8), Pipeline)
assert_type(pipeline("x", task="multiple-choice", truncation=True), Pipeline)
assert_type(pipeline("x", task="text-generation", max_new_tokens=3), Generator)
assert_type(pipeline("x", task="text2text-generation", num_beams=2, early_stopping="never"), Generator)
assert_type(pipeline("x", aggregation_strategy="simple"), Any)

pipeline("x", task="token-classification", agregation_strategy="simple")  # wrong
pipeline("x", task="token-classification", stride="8")  # wrong
pipeline("x", task="text-classification", top_k="all")  # wrong
pipeline("x", task="fill-mask", normalize=True)  # wrong
pipeline("x", task="text-generation", aggregation_strategy="simple")  # wrong
pipeline("x", task="token-clasification")  # wrong
pipeline("x", task="multiple-choice", threads="two")  # wrong
pipeline("x", task="text-generation", batch_sise=2)  # wrong
pipeline("x", task="question-answering")("a", batch_size="b")  # wrong
"""


def test_mypy_accepts_the_options_of_the_task_and_no_others(tmp_path: Path, kept_folder: Path) -> None:
    path = tmp_path / "snippet.py"
    path.write_text(SNIPPET)
    settings = ["--strict", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(kept_folder / "mypy")]
    printed, problems, _ = mypy.api.run([*settings, str(path)])
    assert problems == ""
    found = {int(line) for line in re.findall(r"snippet\.py:(\d+): error", printed)}
    wrong = {number for number, line in enumerate(SNIPPET.splitlines(), 1) if line.endswith("# wrong")}
    assert found == wrong, printed


@pytest.mark.parametrize("row", CLASSES)
def test_the_types_are_those_of_the_options(row: type) -> None:
    name = "TextGenerationOptions" if row is GenerationOptions else f"{row.__name__}Options"
    typed = getattr(option_types, name)
    fields = {name: hint for name, hint in typing.get_type_hints(row).items() if name not in INHERITED}
    fields = {name: hint for name, hint in fields.items() if typing.get_origin(hint) is not typing.ClassVar}
    assert typing.get_type_hints(typed) == typing.get_type_hints(option_types.OpeningOptions) | fields
    assert typed.__required_keys__ == set()


def test_what_every_task_takes_is_what_the_function_takes() -> None:
    hints = typing.get_type_hints(pipeline)
    taken = {name: hint for name, hint in hints.items() if name not in {"folder", "task", "options", "return"}}
    assert typing.get_type_hints(option_types.OpeningOptions) == taken


def test_each_task_has_an_overload_with_its_options() -> None:
    found = {}
    for overload in typing.get_overloads(pipeline):
        hints = typing.get_type_hints(overload)
        for task in typing.get_args(hints["task"]) if hints["task"] is not type(None) else ():
            (options,) = typing.get_args(hints["options"])
            found[task] = options.__name__
    rows = {name: POSTPROCESS[task.postprocess].__name__ for name, task in TASKS.items() if task.postprocess}
    assert found == {name: f"{rows.get(name, 'TextGeneration')}Options" for name in TASKS}


def test_the_task_is_compared_with_the_bundle(bundle_of: Callable[..., Bundle]) -> None:
    folder = bundle_of("token-classification").folder
    tag = pipeline(folder, task="token-classification", aggregation_strategy="simple")
    assert isinstance(tag, Pipeline)
    assert tag(CORPUS[0]) == pipeline(folder, aggregation_strategy="simple")(CORPUS[0])
    with pytest.raises(InputError, match="is a bundle for token-classification, but task is 'fill-mask'"):
        pipeline(folder, task="fill-mask")
