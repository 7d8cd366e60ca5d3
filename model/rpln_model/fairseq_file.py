"""Reads a checkpoint file of fairseq: the tensors, named as in fairseq 0.12, and the settings of the training."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from rpln_model.errors import CheckpointError
from rpln_model.fairseq_names import current_name, head_names
from rpln_model.weights import read_pickle

DEFAULT_HEAD: Final = "sentence_classification_head"


@dataclass(frozen=True, slots=True, kw_only=True)
class FairseqCheckpoint:
    """The content of a checkpoint, in the same form for every version of fairseq.

    Its tensors have the names of fairseq 0.12.
    """

    path: Path
    tensors: dict[str, Tensor]
    settings: Mapping[str, Any]

    @property
    def heads(self) -> list[str]:
        """The names of the classification heads."""
        return head_names(self.tensors)

    @property
    def trained_head(self) -> str | None:
        """The name of the classification head that was trained last, or None if there is no such head.

        Raises CheckpointError if there are several, and the settings name none of them.
        """
        heads = self.heads
        named = self.settings.get("classification_head_name", DEFAULT_HEAD)
        if len(heads) > 1 and named not in heads:
            raise CheckpointError(
                f"{self.path} has the classification heads {', '.join(heads)}, and its settings name none of them "
                f"(classification_head_name is {named!r}): save it again with one of them."
            )
        return named if named in heads else next(iter(heads), None)


def read_fairseq(path: Path) -> FairseqCheckpoint:
    """Return the content of the file `path`. Its tensors are mapped from the file, and not yet in memory.

    No code in the pickle is run, and it may contain no class but `argparse.Namespace`. Raises CheckpointError if the
    file is truncated, corrupt, unsafe, or no checkpoint of fairseq.
    """
    content = read_pickle(path, allowed=[argparse.Namespace])
    tensors = content.get("model") if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not tensors or not all(map(_is_named_tensor, tensors.items())):
        raise CheckpointError(
            f"{path} is no checkpoint of fairseq's; expected a dict with tensors by name under 'model', as "
            "fairseq-train saves it. One of transformers' is named by its folder."
        )
    assert isinstance(content, dict)
    named = ((current_name(name), tensor) for name, tensor in tensors.items())
    return FairseqCheckpoint(
        path=path,
        tensors={name: tensor for name, tensor in named if name is not None},
        settings=_settings(content, path),
    )


def _is_named_tensor(item: tuple[object, object]) -> bool:
    name, tensor = item
    return isinstance(name, str) and isinstance(tensor, Tensor)


def _settings(content: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Return the settings of the model.

    fairseq saves them as `args` up to version 0.10 and as `cfg["model"]` in later ones. Both may be a namespace or a
    dict.
    """
    cfg = content.get("cfg")
    # By type, not by truth: either may hold anything, such as a tensor, which is neither true nor false.
    stated = (content.get("args"), cfg.get("model") if isinstance(cfg, dict) else None)
    described = (vars(found) if isinstance(found, argparse.Namespace) else found for found in stated)
    settings = next((found for found in described if isinstance(found, dict) and found), None)
    if settings is None or not all(isinstance(name, str) for name in settings):
        raise CheckpointError(
            f"{path} does not say how its model was made; expected the settings that fairseq-train saves, under 'args' "
            "or 'cfg.model': the number of attention heads, for one, does not show in the weights."
        )
    return settings
