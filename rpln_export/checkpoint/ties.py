"""Word embeddings and the projection onto the vocabulary: one table of weights, or two that the checkpoint holds."""

from typing import Any, Final

import torch

from rpln_export.errors import PlanError
from rpln_export.plan.export_plan import ExportPlan
from rpln_model.base import BASE_MODEL_PREFIX
from rpln_model.weights import read_weights

PROJECTION: Final = "lm_head.decoder.weight"
"""The end of the name of a projection onto the vocabulary."""
_WORDS: Final = f"{BASE_MODEL_PREFIX}.embeddings.word_embeddings.weight"


def tie_as_chosen(model: Any, plan: ExportPlan) -> None:
    """Make one table of two that differ, where the plan says so.

    Raises PlanError if the config ties them, the checkpoint has two that differ, and the plan chooses none.
    """
    network = getattr(model, "decoder", model)
    if not hasattr(network, "lm_head") or not plan.config.tie_word_embeddings:
        return
    name = _second_table(plan)
    if name is None:
        return
    if plan.tie is None:
        raise PlanError(
            f"{plan.name} holds a {name} that differs from its word embeddings, but its config says that they are one "
            "table (tie_word_embeddings). transformers 4.57 reads the word embeddings for both, transformers 5 reads "
            "both. Choose the former with --tie, or the latter with --no-tie."
        )
    network.lm_head.decoder.weight = network.get_input_embeddings().weight


def _second_table(plan: ExportPlan) -> str | None:
    """Return the name of a projection in the checkpoint that differs from the word embeddings beside it, or None."""
    weights = read_weights(plan.source.network_folder)
    for name, projection in weights.items():
        words = weights.get(f"{name.removesuffix(PROJECTION)}{_WORDS}")
        if name.endswith(PROJECTION) and words is not None and not torch.equal(projection, words):
            return name
    return None
