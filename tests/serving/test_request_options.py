"""Options of a request: each has the type of its field, and what is wrong is said in plain words."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from rpln_runtime.errors import InputError
from rpln_runtime.generation.options import GenerationOptions
from rpln_runtime.postprocess import POSTPROCESS, fill_mask
from rpln_runtime.postprocess.fill_mask import FillMask
from rpln_runtime.postprocess.question_answering import QuestionAnswering
from rpln_runtime.serve.models import open_model
from rpln_runtime.serve.request_options import typed_options
from rpln_runtime.triton.request import Asked
from tests.triton.networks import make_toy_bundle

pytestmark = pytest.mark.usefixtures("_extra")


@dataclasses.dataclass(frozen=True)
class Fields:
    """Options of types that no task has yet."""

    pair: tuple[int, ...] = ()
    names: frozenset[str] = frozenset()


@pytest.mark.parametrize("row", [*POSTPROCESS.values(), GenerationOptions], ids=lambda row: row.__name__)
def test_an_option_takes_its_default_and_no_object(row: Any) -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(row)}
    options = {name: value for name, value in defaults.items() if value is not dataclasses.MISSING}
    as_json = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    assert typed_options(row, as_json, "a task") == as_json
    for name in options:
        with pytest.raises(InputError, match=rf"^{name} is {{}}, expected \w"):
            typed_options(row, {name: {}}, "a task")


@pytest.mark.parametrize(
    ("row", "name", "value", "says"),
    [
        (QuestionAnswering, "top_k", True, "is True, expected a whole number."),
        (QuestionAnswering, "top_k", "five", "is 'five', expected a whole number."),
        (FillMask, "targets", ["a", 1], "is ['a', 1], expected a text or a list of texts or null."),
        (GenerationOptions, "temperature", "1", "is '1', expected a number."),
        (GenerationOptions, "bad_words_ids", [1], "is [1], expected a list of lists of whole numbers or null."),
        (GenerationOptions, "early_stopping", "ever", "is 'ever', expected true or false or 'never'."),
    ],
)
def test_a_value_of_another_type_is_refused_in_plain_words(row: Any, name: str, value: Any, says: str) -> None:
    with pytest.raises(InputError, match=f"^{name} {re.escape(says)}$"):
        typed_options(row, {name: value}, "a task")


def test_an_option_of_another_task_is_refused() -> None:
    with pytest.raises(InputError, match="unknown option 'stride' for a task: expected one of max_new_tokens, "):
        typed_options(GenerationOptions, {"stride": 1}, "a task")


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(InputError) as refusal:
        typed_options(FillMask, {"top_k": "5" * 60_000}, "a task")
    assert len(str(refusal.value)) < 300


def test_a_list_stands_for_a_tuple_and_a_set() -> None:
    found = typed_options(Fields, {"pair": [1, 2], "names": ["a", "a"]}, "a task")
    assert found == {"pair": (1, 2), "names": frozenset({"a"})}


def test_texts_of_clients_are_not_kept_in_warnings(tmp_path: Path) -> None:
    make_toy_bundle(tmp_path, "fill-mask")
    model = open_model(tmp_path, provider="cpu", threads=1, batch_size=4)
    (outcome,) = model.answer([Asked("A <mask>.", {"targets": ["unheard-of"]})])
    assert outcome.status == 200, outcome.sentence
    assert not any("unheard-of" in str(key) for key in vars(fill_mask).get("__warningregistry__", ()))
