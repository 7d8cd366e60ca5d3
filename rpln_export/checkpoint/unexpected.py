"""Weights of a checkpoint that the task's network has no place for: which of them may be left out, and which may not.

transformers leaves out every weight that it has no place for. Some of them would have changed the outputs: those of an
adapter, or of layers that the config does not count. An export therefore refuses them, unless a row of HARMLESS says
that nothing reads them.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from rpln_export.errors import PlanError
from rpln_export.plan.export_plan import ExportPlan
from rpln_model.base import BASE_MODEL_PREFIX
from rpln_model.encoder import RobertaPreLayerNormModel
from rpln_model.names import listed
from rpln_model.weights import read_weights

HARMLESS: Final = {
    "the pooler, which only pooler_output reads": r"pooler\.dense\.(weight|bias)",
    "the head of fill-mask and text-generation": r"lm_head\.(dense\.|layer_norm\.|decoder\.)?(weight|bias)",
    "the head of text-classification": r"classifier\.(dense|out_proj)\.(weight|bias)",
    "the head of token-classification and multiple-choice": r"classifier\.(weight|bias)",
    "the head of question-answering": r"qa_outputs\.(weight|bias)",
}
"""Weights that may be left out where the task's network lacks them: what they are, and the pattern of their names.

The names go without the prefix of the base model. Buffers of older versions are no weights (`rpln_model.weights`).
"""

# The beginnings of the names of weights below a head.
_BASE_MODEL: Final = (f"{BASE_MODEL_PREFIX}.", "embeddings.", "encoder.", "LayerNorm.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of weights by the pattern of their names, with what they look like and what makes a whole network."""

    pattern: str
    looks: str
    cure: str


KINDS: Final = (
    Kind(
        pattern=r"(^|\.)(lora_\w+|base_layer|modules_to_save|original_module|ia3_l|boft_\w+|hada_\w+|vera_\w+)(\.|$)",
        looks="weights of a peft adapter that were not merged",
        cure="Merge them with merge_and_unload() of peft and save the result",
    ),
    Kind(
        pattern=r"(^|\.)crossattention\.",
        looks="cross-attention, which add_cross_attention in config.json does not switch on",
        cure="Correct config.json",
    ),
    Kind(
        pattern=r"(^|\.)distance_embedding\.",
        looks="relative positions, which position_embedding_type in config.json does not switch on",
        cure="Correct config.json",
    ),
    Kind(
        pattern=r"(^|\.)(adapters?|adapter_fusion\w*|prefix_tuning|prompt_\w+)(\.|$)",
        looks="an adapter between the layers, which this architecture lacks",
        cure="Export a checkpoint that was trained without it",
    ),
    Kind(
        pattern=r"(^|\.)(parametrizations|weight_orig|weight_mask|weight_[gvuUV])(\.|$)",
        looks="a parametrized weight, which is computed from several tensors",
        cure="Remove the parametrization where it was trained, and save it again",
    ),
    Kind(
        pattern=r"(^|\.)(qweight|qzeros|scales|weight_scale\w*|SCB|absmax|quant_\w+|zero_point)$",
        looks="quantized weights",
        cure="Save it in float32, float16 or bfloat16",
    ),
)
"""The kinds of weights that a message can name. The first whose pattern is found in a name counts."""


def check_unexpected(names: Collection[str], plan: ExportPlan) -> tuple[str, ...]:
    """Return the names of weights that are left out because the plan ignores them, sorted.

    `names` are the weights of the checkpoint that the task's network has no place for. Raises PlanError if some of them
    are not harmless and the plan does not ignore them.
    """
    unknown = sorted(name for name in names if not _is_harmless(name))
    if unknown and plan.task.architecture == RobertaPreLayerNormModel.__name__ and _has_head(plan):
        unknown = [name for name in unknown if name.startswith(_BASE_MODEL)]
    if unknown and not plan.ignore_unexpected:
        raise PlanError(
            f"{plan.name} holds {len(unknown)} weight{'s' if len(unknown) > 1 else ''} that "
            f"{plan.task.architecture} has no place for: {listed(unknown)}. {_advice(unknown, plan)}, or add "
            "--ignore-unexpected to export the network without them."
        )
    return tuple(unknown)


def _is_harmless(name: str) -> bool:
    own = name.removeprefix("decoder.").removeprefix(f"{BASE_MODEL_PREFIX}.")
    return any(re.fullmatch(pattern, own) for pattern in HARMLESS.values())


def _has_head(plan: ExportPlan) -> bool:
    """Return whether the checkpoint is one of a network with a head: what lies beside its base model is the head."""
    names = read_weights(plan.source.network_folder)
    return any(name.startswith(f"{BASE_MODEL_PREFIX}.") for name in names)


def _advice(names: Collection[str], plan: ExportPlan) -> str:
    """Return what the weights look like and what to do about it, without a full stop."""
    if layers := _layers_beyond(names, plan):
        return (
            f"They look like layers {', '.join(layers)}, counted from 0, but num_hidden_layers in config.json is less. "
            "Correct it"
        )
    for kind in KINDS:
        if any(re.search(kind.pattern, name) for name in names):
            return f"They look like {kind.looks}. {kind.cure}"
    return "Without them it may be another network. Export the checkpoint of this architecture that it was made from"


def _layers_beyond(names: Collection[str], plan: ExportPlan) -> list[str]:
    """Return the numbers of the layers that the config of their network does not count."""
    found: set[int] = set()
    for name in names:
        layer = re.search(r"(?:^|\.)encoder\.layer\.(\d+)\.", name)
        config = plan.composition.encoder if name.startswith("encoder.encoder.") else plan.config
        if layer and config and int(layer[1]) >= config.num_hidden_layers:
            found.add(int(layer[1]))
    return [str(number) for number in sorted(found)]
