"""Makes a network from the tensors of a checkpoint of another toolkit, once they have transformers' names."""

from collections.abc import Collection
from pathlib import Path

from torch import Tensor
from transformers import RobertaPreLayerNormConfig

from rpln_model.checkpoints import mismatched_shapes
from rpln_model.errors import CheckpointError
from rpln_model.heads import HEADS
from rpln_model.names import listed
from rpln_model.network import Network


def network_from_tensors(
    architecture: str,
    config: RobertaPreLayerNormConfig,
    tensors: dict[str, Tensor],
    *,
    source: Path,
    unused: tuple[str, ...] = (),
) -> Network:
    """Return a network of the class `architecture`, a row of HEADS, in eval mode, with `tensors` as its parameters.

    Args:
        architecture: the name of the class.
        config: the configuration of the network.
        tensors: the parameters, by the names that they have in the class.
        source: the file or folder that they come from, for messages.
        unused: prefixes of tensors that may be left out if the network has no place for them.

    Raises CheckpointError if tensors are missing, unknown or of another shape, and ConfigError if `config` describes no
    network of this architecture.
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
    """Raise CheckpointError if there are `names`: tensors of `source` that a checkpoint of its `kind` does not have."""
    if names:
        raise CheckpointError(
            f"{source} holds what {kind} does not have: {listed(sorted(names))}. Without these it would be another "
            "network; expected a checkpoint that has none."
        )
