"""Merges a peft adapter into the network that it belongs to, so that what is exported is the trained network."""

import dataclasses
import warnings
from typing import Any, Final

from torch import nn

from rpln_export.errors import PlanError
from rpln_export.extras import require_extra
from rpln_export.plan.adapter import Adapter
from rpln_export.plan.export_plan import ExportPlan
from rpln_model.names import listed
from rpln_model.weights import ADAPTER, read_adapter
from rpln_runtime.documents import shown

_PREFIX: Final = "base_model.model."
"""What the names in an adapter's file begin with; the network's own names follow."""
_TIED: Final = (".word_embeddings.", ".lm_head.decoder.")
"""What is in the names of weights that an adapter changes in one of two tied places."""
_MOST_LINES: Final = 3
"""The most lines of peft's message that ours holds."""
_DESCRIPTIVE: Final = frozenset({"auto_mapping", "peft_version"})
"""Fields of adapter_config.json that change nothing."""
_RANKS: Final = ("r", "init_r", "rank_pattern")
"""Fields of adapter_config.json with the ranks of matrices that peft makes before it compares them with the weights."""


def supplied_by_adapter(plan: ExportPlan) -> set[str]:
    """Return the names of weights that the plan's adapter brings whole, such as those of a head that it trained."""
    adapter = plan.source.adapter
    return {name.removeprefix(_PREFIX) for name in read_adapter(adapter.folder)} if adapter else set()


def merge_adapter(model: Any, adapter: Adapter, plan: ExportPlan) -> Any:
    """Return the model with the adapter merged into its weights. All of the adapter must have found its place.

    Where the adapter changes word embeddings that are tied to the projection onto the vocabulary, they are two tables
    from now on, in the plan's config, too. Raises PlanError for an adapter of another network or of a later peft.
    """
    peft: Any = require_extra("peft")
    weights = read_adapter(adapter.folder)
    _check_head(model, weights, plan)
    _check_ranks(adapter, weights)
    if plan.config.tie_word_embeddings and any(part in f".{name}" for name in weights for part in _TIED):
        _untie(model, plan)
    kind = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[adapter.kind]
    _check_fields(adapter, {field.name for field in dataclasses.fields(kind)})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on ties, which are dealt with here, and on what is checked here
            config = kind.from_pretrained(str(adapter.folder))
            config.inference_mode = True
            adapted = peft.get_peft_model(model, config)
            found = peft.set_peft_model_state_dict(adapted, weights)
            merged = adapted.merge_and_unload().eval()
    except Exception as error:  # peft checks hardly any field of the file before it computes with it
        # torch's message names the weights and their shapes in its further lines.
        reason = "; ".join(line.strip() for line in str(error).splitlines()[:_MOST_LINES])
        raise PlanError(
            f"the adapter in {adapter.folder} does not fit {type(model).__name__} of {adapter.base} "
            f"({type(error).__name__}: {reason}). Name the --task that it was trained for, and check "
            f"base_model_name_or_path and the other fields of {ADAPTER}."
        ) from error
    _check_whole(found, peft.mapping.PEFT_TYPE_TO_PREFIX_MAPPING[adapter.kind], adapter)
    return merged


def _check_head(model: Any, weights: dict[str, Any], plan: ExportPlan) -> None:
    """Raise PlanError, with the numbers of labels, if the adapter brings a head for others than the config names."""
    for name, weight in model.state_dict().items():
        given = weights.get(f"{_PREFIX}{name}")
        if given is not None and given.shape != weight.shape:
            raise PlanError(
                f"the adapter of {plan.name} brings a {name} of shape {tuple(given.shape)}, but the config asks for "
                f"{tuple(weight.shape)}. If it was trained for other labels, copy the network's config.json beside "
                f"{ADAPTER} and name them there (id2label)."
            )


def _check_ranks(adapter: Adapter, weights: dict[str, Any]) -> None:
    """Raise PlanError for a rank that no matrix of the adapter has: peft would take memory for it all the same.

    A rank of LoKr may be larger. It then stands for whole matrices.
    """
    largest = max((size for weight in weights.values() for size in weight.shape), default=0)
    for name in _RANKS if adapter.kind != "LOKR" else ():
        value = adapter.fields.get(name)
        ranks = value.values() if isinstance(value, dict) else [value]
        if any(isinstance(rank, int | float) and rank > largest for rank in ranks):
            raise PlanError(
                f"{adapter.folder / ADAPTER} has {name} {shown(value)}, but no axis of the adapter's weights is larger "
                f"than {largest}. Copy the adapter again."
            )


def _untie(model: Any, plan: ExportPlan) -> None:
    """Give the projection onto the vocabulary a copy of the word embeddings as its own weights."""
    network = getattr(model, "decoder", model)
    if hasattr(network, "lm_head"):
        network.lm_head.decoder.weight = nn.Parameter(network.get_input_embeddings().weight.detach().clone())
        for config in (network.config, model.config, plan.config, plan.composition.config):
            config.tie_word_embeddings = False


def _check_fields(adapter: Adapter, known: set[str]) -> None:
    unknown = sorted(name for name, value in adapter.fields.items() if value and name not in known | _DESCRIPTIVE)
    if unknown:
        raise PlanError(
            f"{adapter.folder / ADAPTER} holds {', '.join(unknown)}, which the installed peft does not know for "
            f"{adapter.kind}. Install the peft that it was trained with, at least."
        )


def _check_whole(found: Any, prefix: str, adapter: Adapter) -> None:
    """Raise PlanError if weights of the adapter have no place in the network, or if places got none."""
    missing = [name for name in found.missing_keys if prefix in name or ".modules_to_save." in name]
    if names := sorted(found.unexpected_keys) or missing:
        what = "has weights without a place in the network" if found.unexpected_keys else "lacks weights"
        raise PlanError(
            f"the adapter in {adapter.folder} {what} ({listed(names)}). Name the --task that it was trained for, and "
            f"check base_model_name_or_path in {ADAPTER}."
        )
