"""INTERFACES: what Triton's clients get for each post-processing, and a request to show them.

The key is a row of `rpln_runtime.postprocess.POSTPROCESS`; what a request holds follows from the `fields` of its class.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from rpln_runtime.triton.response import Column


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """`columns` are the tensors of the response, `example` is an item to ask with, by the names of its fields."""

    example: Mapping[str, str | list[str]]
    columns: tuple[Column, ...]


def _listed(answer: Any) -> list[dict[str, Any]]:
    """Return the parts of an answer, which may be one part, a list of parts, or a list of such lists."""
    if isinstance(answer, dict):
        return [answer]
    return [one for part in answer for one in _listed(part)]


def _values(*keys: str) -> Callable[[Any], list[Any]]:
    """Return a function that takes from each part of an answer the value under the first of `keys` that it has."""
    return lambda answer: [next(part[key] for key in keys if key in part) for part in _listed(answer)]


def _masks(answer: list[Any]) -> list[int]:
    """Return, for each filling of an answer, which mask of the text it fills, counted from 0."""
    masks = answer if answer and isinstance(answer[0], list) else [answer]
    return [place for place, fillings in enumerate(masks) for _ in fillings]


def _strings(name: str, *keys: str) -> Column:
    return Column(name=name, data_type="TYPE_STRING", rows=_values(*(keys or (name,))))


def _integers(name: str) -> Column:
    return Column(name=name, data_type="TYPE_INT64", rows=_values(name))


_SCORE: Final = Column(name="score", data_type="TYPE_FP32", rows=_values("score"))
_TEXT: Final[Mapping[str, str]] = {"text": "The old man walked to the boat."}

INTERFACES: Final[dict[str, Interface]] = {
    "feature_extraction": Interface(
        example=_TEXT,
        columns=(
            Column(
                name="features",
                data_type="TYPE_FP32",
                rows=lambda answer: answer.reshape(-1, answer.shape[-1]),
                wide=True,
            ),
        ),
    ),
    "fill_mask": Interface(
        example={"text": "The old man walked to the <mask>."},
        columns=(
            _strings("token_str"),
            _SCORE,
            _integers("token"),
            _strings("sequence"),
            Column(name="mask", data_type="TYPE_INT64", rows=_masks),
        ),
    ),
    "multiple_choice": Interface(
        example={"prompt": "The sky is", "choices": ["blue.", "a fish."]},
        columns=(
            _strings("answer"),
            _SCORE,
            _integers("index"),
            Column(name="scores", data_type="TYPE_FP32", rows=lambda answer: answer["scores"]),
        ),
    ),
    "question_answering": Interface(
        example={"question": "Who walked?", "context": "The old man walked to the boat."},
        columns=(_strings("answer"), _SCORE, _integers("start"), _integers("end")),
    ),
    "text_classification": Interface(example=_TEXT, columns=(_strings("label"), _SCORE)),
    "token_classification": Interface(
        example=_TEXT,
        columns=(
            _strings("label", "entity", "entity_group"),
            _SCORE,
            _integers("start"),
            _integers("end"),
            _strings("word"),
        ),
    ),
}
