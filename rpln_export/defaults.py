"""DEFAULTS: the checkpoints that come with this package, for a command that names none. One row per task."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Default:
    """An embedded checkpoint: what its bundles are called after, and its folder."""

    name: str
    folder: Path


_HERE: Final = Path(__file__).parent

DEFAULT_CHECKPOINT: Final = _HERE / "default_checkpoint"
"""For all tasks without a row of their own, as far as it has what they need."""

TAGGER: Final = Default(name="pos-tagger-brown", folder=DEFAULT_CHECKPOINT)

DEFAULTS: Final = {
    "token-classification": TAGGER,
    "text-generation": Default(name="brown-lm", folder=_HERE / "default_checkpoints" / "text-generation"),
    "text2text-generation": Default(
        name="case-restorer-brown", folder=_HERE / "default_checkpoints" / "text2text-generation"
    ),
}


def default_for_task(task: str | None) -> Default:
    """The embedded checkpoint for a task; None stands for the task of the tagger."""
    return DEFAULTS.get(task or "", TAGGER)
