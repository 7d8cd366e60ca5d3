"""Examples for the tiny checkpoints of each task, in each form that their data may have."""

from typing import Any, Final

Line = dict[str, Any]

_SENTENCES: Final = (
    "The dog barked and the cat slept.",
    "Ada Lovelace wrote to Charles Babbage in London in 1843.",
    "Is this a question? Yes, it is -- isn't it!",
    "The rain fell on the roof while the dog slept.",
    "Charles wrote to Ada.",
)
_LABELS: Final = ("O", "NOUN", "VERB", "PLACE", "TIME")


def _texts(name: str, values: Any) -> list[Line]:
    return [{"text": text, name: value} for text, value in zip(_SENTENCES, values, strict=True)]


EXAMPLES: Final[dict[str, list[Line]]] = {
    "SingleLabel": [*_texts("label", _LABELS), {"text": "It rained.", "text_pair": "We got wet.", "label": 2}],
    "MultiLabel": _texts("labels", [["NOUN"], ["NOUN", "VERB"], [], ["PLACE", "O"], list(_LABELS)]),
    "Regression": _texts("score", [0.5, 2, -1, 0.75, 3.5]),
    "WordLabels": [
        {"words": text.split(), "labels": [_LABELS[place % 5] for place, _ in enumerate(text.split())]}
        for text in _SENTENCES
    ]
    + [
        {"text": _SENTENCES[0] * 9, "words": ["The", "dog", "slept", "."], "labels": ["O", "NOUN", "VERB", "O"]},
    ],
    "Entities": [
        {"words": text.split()[:5], "labels": ["B-PER", "I-PER", "O", "B-LOC", "I-LOC"][: len(text.split()[:5])]}
        for text in _SENTENCES
    ],
    "Answers": [
        {"question": "Who barked?", "context": _SENTENCES[0], "answers": ["The dog", "dog"]},
        {"question": "Where?", "context": " ".join(_SENTENCES), "answers": ["in London"]},
        {"question": "Who slept?", "context": _SENTENCES[3], "answers": ["dog"]},
    ],
    "Choices": [
        {"prompt": "It rained.", "choices": ["We got wet.", "Ada wrote."], "label": 0},
        {"prompt": "The dog", "choices": ["barked.", "wrote to Ada.", "in 1843"], "label": 2},
        {"prompt": "Ada", "choices": ["wrote.", "is a roof."], "label": 1},
    ],
    "MaskedTexts": [{"text": text} for text in (*_SENTENCES, " ".join(_SENTENCES))],
    "Cloze": [
        {"text": "On <mask> roof.", "targets": ["the"]},
        {"text": 'Ada wrote <mask><mask>"', "targets": ["the", "."]},
    ],
    "Continuations": [{"text": text} for text in (*_SENTENCES, " ".join(_SENTENCES * 3))],
    "Translations": [{"text": text, "target": text.lower()} for text in _SENTENCES],
    "Similarity": [
        {"text1": one, "text2": other, "score": score}
        for one, other, score in zip(_SENTENCES, reversed(_SENTENCES), [0.1, 5, 2, 2, -1], strict=True)
    ],
    "Retrieval": [
        {"query": one, "positive": other} for one, other in zip(_SENTENCES, reversed(_SENTENCES), strict=True)
    ],
}
"""The examples by the name of the class in MEASURES."""

FORMS: Final[dict[str, dict[str, Any]]] = {
    "MultiLabel": {"problem_type": "multi_label_classification"},
    "Regression": {"problem_type": "regression", "id2label": {0: "SCORE"}, "label2id": {"SCORE": 0}},
    "Entities": {
        "id2label": dict(enumerate(("O", "B-PER", "I-PER", "B-LOC", "I-LOC"))),
        "label2id": {"O": 0, "B-PER": 1, "I-PER": 2, "B-LOC": 3, "I-LOC": 4},
    },
}
"""The fields of a config that make a network of the task one for examples of this form."""
