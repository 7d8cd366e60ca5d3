"""DinkyTrain's checkpoints in: RoBERTa-PreLayerNorm under RoBERTa's names, as its converter from fairseq writes them.

The folder has a config.json of model type "roberta", and weights under `roberta.`. Beside those of this architecture
there are LayerNorms that DinkyTrain's modules have and never apply, `attention.self.LayerNorm`.
"""

from pathlib import Path
from typing import Final

from transformers import RobertaPreLayerNormConfig

from rpln_model.base import BASE_MODEL_PREFIX
from rpln_model.checkpoints import config_from_fields, read_fields
from rpln_model.config import MODEL_TYPE
from rpln_model.conversion import network_from_tensors
from rpln_model.errors import CheckpointError
from rpln_model.heads import HEADS
from rpln_model.network import Network
from rpln_model.weights import CONFIG, read_weights

_MODEL_TYPE: Final = "roberta"
_PREFIX: Final = "roberta."
_FINAL_NORM: Final = f"{_PREFIX}LayerNorm.weight"
_NEVER_APPLIED: Final = (".self.LayerNorm.weight", ".self.LayerNorm.bias")
# How the names of RoBERTa's classes with a head begin, and those of this architecture.
_CLASS: Final = ("RobertaFor", "RobertaPreLayerNormFor")


def is_dinkytrain(folder: Path) -> bool:
    """Whether the config.json in `folder` says "roberta": DinkyTrain's, or RoBERTa's own, whose weights then tell.

    Raises:
        CheckpointError: it is not valid JSON.
    """
    path = folder / CONFIG
    return path.is_file() and read_fields(path).get("model_type") == _MODEL_TYPE


def network_from_dinkytrain(folder: Path) -> Network:
    """The network in `folder`: of the head that its config names, in eval mode, in the dtype it was saved in.

    Raises:
        CheckpointError: config or weights cannot be read, or are those of another network than this architecture.
        ConfigError: its sizes describe no network.
    """
    fields = read_fields(folder / CONFIG)
    architecture = _architecture(fields.get("architectures") or [], folder)
    found = read_weights(folder)
    if _FINAL_NORM not in found:
        raise CheckpointError(
            f"{folder} is of model type {_MODEL_TYPE!r} and has no {_FINAL_NORM}: RoBERTa itself, with its LayerNorms "
            f"after each part of a layer, is another network. Expected model type {MODEL_TYPE!r}, or weights that "
            "DinkyTrain trained with LayerNorms before each part."
        )
    tensors = {
        name.replace(_PREFIX, f"{BASE_MODEL_PREFIX}.", 1) if name.startswith(_PREFIX) else name: tensor
        for name, tensor in found.items()
        if not name.endswith(_NEVER_APPLIED)
    }
    config = config_from_fields(
        RobertaPreLayerNormConfig, fields | {"model_type": MODEL_TYPE, "architectures": None}, path=folder / CONFIG
    )
    # Only multiple choice reads the pooler; transformers saves one with other heads, too.
    return network_from_tensors(architecture, config, tensors, source=folder, unused=(f"{BASE_MODEL_PREFIX}.pooler.",))


def _architecture(named: list[str], folder: Path) -> str:
    theirs, ours = _CLASS
    known = {name.replace(ours, theirs, 1): name for name in HEADS if name.startswith(ours)}
    for name in named:
        if name in known:
            return known[name]
    raise CheckpointError(
        f"{folder / CONFIG} names the architectures {', '.join(named) or 'none'}; expected one of {', '.join(known)}."
    )
