"""Reads checkpoints that DinkyTrain converted from fairseq: RoBERTa-PreLayerNorm with the tensor names of RoBERTa.

The folder has a config.json of model type "roberta", and tensors whose names begin with `roberta.`. DinkyTrain's
modules also have LayerNorms named `attention.self.LayerNorm`, which they never apply; these are left out.
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
# The beginnings of class names: of RoBERTa's classes with a head, and of those of this architecture.
_CLASS: Final = ("RobertaFor", "RobertaPreLayerNormFor")


def is_dinkytrain(folder: Path) -> bool:
    """Return whether config.json in `folder` has the model type "roberta".

    RoBERTa's own checkpoints have it, too. `network_from_dinkytrain` tells them apart by their weights. Raises
    CheckpointError if config.json is not valid JSON.
    """
    path = folder / CONFIG
    return path.is_file() and read_fields(path).get("model_type") == _MODEL_TYPE


def network_from_dinkytrain(folder: Path) -> Network:
    """Return the network in `folder`, in eval mode and in the dtype it was saved in. Its config names the head.

    Raises CheckpointError if the config or the weights cannot be read or belong to another architecture, and
    ConfigError if the sizes describe no network.
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
    # Only the multiple-choice head reads the pooler, but transformers saves it with other heads, too.
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
