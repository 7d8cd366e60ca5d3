"""The file that fairseq's trainer writes: its tensors by the names of fairseq 0.12, and how the model was made."""

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
    """Tensors by fairseq 0.12's names, and the settings of the model, whichever version wrote the file."""

    path: Path
    tensors: dict[str, Tensor]
    settings: Mapping[str, Any]

    @property
    def heads(self) -> list[str]:
        """The names of the classification heads."""
        return head_names(self.tensors)

    @property
    def trained_head(self) -> str | None:
        """The classification head that the last training was for, None where there is none.

        Raises:
            CheckpointError: there are several, and the settings name none of them.
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
    """Read the file `path`, its tensors mapped and not yet in memory.

    `argparse.Namespace` is the one class that its pickle may name; nothing in it is run.

    Raises:
        CheckpointError: it is truncated, corrupt or unsafe, or no checkpoint of fairseq's.
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
    """Those of the model: `args` up to fairseq 0.10, `cfg["model"]` since then; either may be a namespace or a dict."""
    cfg = content.get("cfg")
    found = content.get("args") or (cfg.get("model") if isinstance(cfg, dict) else None)
    settings = vars(found) if isinstance(found, argparse.Namespace) else found
    if not isinstance(settings, dict) or not settings:
        raise CheckpointError(
            f"{path} does not say how its model was made; expected the settings that fairseq-train saves, under 'args' "
            "or 'cfg.model': the number of attention heads, for one, does not show in the weights."
        )
    return settings
