"""Refuses checkpoints whose config names a network that is defined by code in the checkpoint itself."""

from typing import Final

from rpln_export.errors import PlanError
from rpln_model.composition import Composition

# The entries of auto_map that name no network: the export reads the tokenizer by itself.
_NO_NETWORK: Final = frozenset({"AutoTokenizer", "AutoProcessor"})


def check_remote_code(composition: Composition, source: str) -> None:
    """Raise PlanError if the config of `source` says that its network is defined by code of its own (auto_map)."""
    for config in (composition.config, composition.decoder, composition.encoder):
        named = getattr(config, "auto_map", None) or {}
        if code := {name: place for name, place in named.items() if name not in _NO_NETWORK}:
            what = ", ".join(f"{name}: {place}" for name, place in code.items())
            raise PlanError(
                f"the config of {source} says that the network is defined by code of its own (auto_map: {what}). That "
                "code is not run, and the network may differ from RoBERTa-PreLayerNorm. Remove auto_map from "
                "config.json if the code does the same as transformers' own classes."
            )
