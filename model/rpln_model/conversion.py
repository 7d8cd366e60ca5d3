"""Tensors of a checkpoint from elsewhere, renamed -> a network that holds exactly them."""

from collections.abc import Collection
from pathlib import Path
from typing import Final

from torch import Tensor
from transformers import RobertaPreLayerNormConfig

from rpln_model.checkpoints import mismatched_shapes
from rpln_model.errors import CheckpointError
from rpln_model.heads import HEADS
from rpln_model.network import Network

_SHOWN: Final = 12


def network_from_tensors(
    architecture: str,
    config: RobertaPreLayerNormConfig,
    tensors: dict[str, Tensor],
    *,
    source: Path,
    unused: tuple[str, ...] = (),
) -> Network:
    """The `architecture`, a row of HEADS, in eval mode; its parameters are the `tensors`, which go by its own names.

    What begins with one of `unused` is left out where the network has no place for it.

    Raises:
        CheckpointError: the tensors of `source` are not those of the network, or of another shape.
        ConfigError: `config` describes no network of this architecture.
    """
    model, info = HEADS[architecture].from_pretrained(
        None,
        config=config,
        state_dict=tensors,
        dtype="auto",
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    refuse_unknown(
        [name for name in info["unexpected_keys"] if not name.startswith(unused)],
        source=source,
        kind=f"a {architecture}",
    )
    if info["missing_keys"]:
        raise CheckpointError(
            f"{source} is incomplete, it lacks {listed(sorted(info['missing_keys']))}: copy or save it again."
        )
    if mismatches := mismatched_shapes(model, info, tensors):
        raise CheckpointError(f"tensors of {source} do not fit each other: {listed(mismatches)}. Save it again.")
    return model


def refuse_unknown(names: Collection[str], *, source: Path, kind: str) -> None:
    """Raise CheckpointError where `source`, which should be of a `kind`, has `names` that it does not know."""
    if names:
        raise CheckpointError(
            f"{source} holds what {kind} does not have: {listed(sorted(names))}. Without these it would be another "
            "network; expected a checkpoint that has none."
        )


def listed(names: Collection[str]) -> str:
    """The names, or the first of them and how many more there are."""
    shown = list(names)[:_SHOWN]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
