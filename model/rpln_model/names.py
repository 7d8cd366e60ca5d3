"""The names of weights: those of the network for those in a file, and how many of them a message shows."""

from collections.abc import Collection
from typing import Final

# What training tools put around a network: DataParallel and its successors, torch.compile, Lightning and its files,
# FSDP, activation checkpointing. No part of a network has such a name.
_WRAPPERS: Final = frozenset(
    {"module", "_orig_mod", "model", "state_dict", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
)

# The names that parameters of a LayerNorm have in checkpoints that came from TensorFlow.
_LAYER_NORM: Final = {"gamma": "weight", "beta": "bias"}


def network_name(name: str) -> str:
    """Return the name that a weight has in the network, for its name in a file.

    Wrappers of training tools are left out (`module.`, `_orig_mod.`, `model.`), and `LayerNorm.gamma` and
    `LayerNorm.beta` are weight and bias, as for transformers.
    """
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    if parts[-2:-1] == ["LayerNorm"]:
        parts[-1] = _LAYER_NORM.get(parts[-1], parts[-1])
    return ".".join(parts) or name


_SHOWN: Final = 12


def listed(names: Collection[str]) -> str:
    """Return the names, separated by commas; of many names, the first ones and how many more there are."""
    shown = list(names)[:_SHOWN]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def weights_in_words(names: Collection[str]) -> str:
    """Return how many weights the `names` are of, and the names as `listed` gives them."""
    return f"{len(names)} weight{'' if len(names) == 1 else 's'}, {listed(names)}"
