"""What of a graph the formulas of passes depend on, read from its plan and the network's config."""

from collections.abc import Callable
from typing import Any, Final

from rpln_export.plan.graphs import GraphPlan
from rpln_graphs.rewriting import base
from rpln_model.activations import ACTIVATIONS
from rpln_model.config import ABSOLUTE, activation, position_type
from rpln_runtime.tasks import LAST_LOGITS, MASKED_LOGITS, MASKED_POSITIONS

GELUS: Final = {ACTIVATIONS["gelu"], ACTIVATIONS["gelu_10"]}
"""The second clips what the first computes."""

FEATURES: Final[dict[str, Callable[[GraphPlan, Any], bool]]] = {
    base.RELATIVE_POSITIONS: lambda _, config: position_type(config) != ABSOLUTE,
    base.OTHER_ACTIVATION: lambda _, config: activation(config) not in GELUS,
    base.TANH_GELU: lambda _, config: activation(config) is ACTIVATIONS["gelu_new"],
    base.GELU_HEAD: lambda graph, _: any("vocab_size" in tensor.axes for tensor in graph.outputs),
    base.ATTENTIONS: lambda graph, _: "attentions" in _outputs(graph),
    base.CROSS_ATTENTIONS: lambda graph, _: "cross_attentions" in _outputs(graph),
    base.HIDDEN_STATES: lambda graph, _: not _outputs(graph).isdisjoint({"hidden_states", "last_hidden_state"}),
    base.CACHE: lambda graph, _: graph.variant.cache,
    base.HEAD_MASK: lambda graph, _: "head_mask" in _inputs(graph),
    base.INPUTS_EMBEDS: lambda graph, _: "inputs_embeds" in _inputs(graph),
    base.TOKEN_TYPES: lambda graph, _: "token_type_ids" in _inputs(graph),
    base.LAST_TOKEN: lambda graph, _: LAST_LOGITS in graph.outputs,
    base.MASKED_TOKENS: lambda graph, _: MASKED_LOGITS in graph.outputs or MASKED_POSITIONS in graph.inputs,
    base.FIRST_TOKEN: lambda graph, _: "logits" in _outputs(graph) and not _has_rows(graph),
}


def features_from_plan(graph: GraphPlan, config: Any) -> frozenset[str]:
    """The features of a graph of the network that `config` describes."""
    return frozenset(name for name, holds in FEATURES.items() if holds(graph, config))


def _inputs(graph: GraphPlan) -> set[str]:
    return {tensor.name for tensor in graph.inputs}


def _outputs(graph: GraphPlan) -> set[str]:
    return {tensor.name for tensor in graph.outputs}


def _has_rows(graph: GraphPlan) -> bool:
    """Whether the logits are of tokens: of each, of the last, of the masked."""
    return any(tensor.per_token or "vocab_size" in tensor.axes for tensor in graph.outputs if tensor.name == "logits")
