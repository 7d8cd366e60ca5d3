"""DEFAULTS: the checkpoints that come with this package, for a command that names none. One row per task."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Default:
    """An embedded checkpoint: what its bundles are called after, and its folder."""

    name: str
    folder: Path


_CHECKPOINTS: Final = Path(__file__).parents[1] / "default_checkpoints"

DEFAULT_CHECKPOINT: Final = _CHECKPOINTS / "token-classification"
"""The tagger's, which is also the one for a command that names no task."""

TAGGER: Final = Default(name="pos-tagger-brown", folder=DEFAULT_CHECKPOINT)

_NAMES: Final = {
    "feature-extraction": "style-embedder-brown",
    "fill-mask": "masked-lm-brown",
    "text-classification": "spam-filter",
    "question-answering": "question-answerer-brown",
    "multiple-choice": "chooser-brown",
    "text-generation": "brown-lm",
    "text2text-generation": "case-restorer-brown",
}

DEFAULTS: Final = {
    "token-classification": TAGGER,
    **{task: Default(name=name, folder=_CHECKPOINTS / task) for task, name in _NAMES.items()},
}


def default_for_task(task: str | None) -> Default:
    """The embedded checkpoint for a task; None stands for the task of the tagger."""
    return DEFAULTS.get(task or "", TAGGER)
