"""DEFAULTS: one row per task with the checkpoint that is exported when the user names none."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Default:
    """An embedded checkpoint: the name of its bundles, and its folder."""

    name: str
    folder: Path

    @property
    def calibration(self) -> Path:
        """The file of texts that it is quantized with unless the user gives others: some that it was trained on."""
        return self.folder / "calibration.jsonl"


_CHECKPOINTS: Final = Path(__file__).parents[1] / "default_checkpoints"

DEFAULT_CHECKPOINT: Final = _CHECKPOINTS / "token-classification"
"""The folder of the part-of-speech tagger, which is exported when the user names no task either."""

TAGGER: Final = Default(name="pos-tagger-brown", folder=DEFAULT_CHECKPOINT)
"""The row of the part-of-speech tagger."""

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
"""The rows by the name of the task."""


def default_for_task(task: str | None) -> Default:
    """Return the embedded checkpoint of a task; for None, the part-of-speech tagger."""
    return DEFAULTS.get(task or "", TAGGER)


def calibration_of_checkpoint(source: str) -> Path | None:
    """Return the file of texts that the embedded checkpoint in the folder `source` brings; None for another one."""
    row = _embedded(source)
    return None if row is None else row.calibration


def name_of_checkpoint(source: str) -> str:
    """Return the last part of a folder or hub id; for the folder of an embedded checkpoint, the name of its row."""
    row = _embedded(source)
    return _normal(source).name if row is None else row.name


def _embedded(source: str) -> Default | None:
    """Return the row of the embedded checkpoint in the folder `source`; None for another one."""
    return next((row for row in DEFAULTS.values() if row.folder == _normal(source)), None)


def _normal(source: str) -> Path:
    return Path(os.path.normpath(Path(source).absolute()))
