"""Tensors of a checkpoint from elsewhere, renamed -> a network that holds exactly them."""

from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from transformers import RobertaPreLayerNormConfig

from rpln_model.checkpoints import under_one_name
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
) -> Network[Any]:
    """The `architecture`, a row of HEADS, in eval mode; its parameters are the `tensors`, which go by its own names.

    What begins with one of `unused` is left out where the network has no place for it.

    Raises:
        CheckpointError: the tensors of `source` are not those of the network, or of another shape.
        ConfigError: `config` describes no network of this architecture.
    """
    with torch.device("meta"):
        model = HEADS[architecture](config)
    aliases = {shared.alias for shared in model.shared_names()}
    expected = {name: tensor for name, tensor in model.state_dict().items() if name not in aliases}
    found = under_one_name(tensors, model)
    refuse_unknown(
        [name for name in found.keys() - expected.keys() if not name.startswith(unused)],
        source=source,
        kind=f"a {architecture}",
    )
    if missing := [name for name in expected if name not in found]:
        raise CheckpointError(f"{source} is incomplete, it lacks {listed(missing)}: copy or save it again.")
    if wrong := [name for name in expected if found[name].shape != expected[name].shape]:
        shapes = [f"{name} is {tuple(found[name].shape)}, not {tuple(expected[name].shape)}" for name in wrong]
        raise CheckpointError(f"tensors of {source} do not fit each other: {listed(shapes)}. Save it again.")
    model.load_state_dict({name: found[name] for name in expected}, strict=False, assign=True)
    model.tie_weights()
    return model.eval()


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
