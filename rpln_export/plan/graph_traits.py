"""The traits of a planned graph that the formulas of passes depend on, read from its plan and the configurations."""

from collections.abc import Callable
from typing import Any, Final

from rpln_export.plan.graphs import GraphPlan
from rpln_graphs.rewriting import traits
from rpln_graphs.rewriting.traits import GraphTraits
from rpln_model.activations import ACTIVATIONS
from rpln_model.composition import Composition
from rpln_model.config import ABSOLUTE, activation, position_type
from rpln_runtime.tasks import LAST_LOGITS, MASKED_LOGITS, MASKED_POSITIONS

GELUS: Final = {ACTIVATIONS["gelu"], ACTIVATIONS["gelu_10"]}
"""The activations whose graphs compute gelu. gelu_10 clips its result."""

FEATURES: Final[dict[str, Callable[[GraphPlan, Any], bool]]] = {
    traits.RELATIVE_POSITIONS: lambda _, config: position_type(config) != ABSOLUTE,
    traits.OTHER_ACTIVATION: lambda _, config: activation(config) not in GELUS,
    traits.TANH_GELU: lambda _, config: activation(config) is ACTIVATIONS["gelu_new"],
    traits.GELU_HEAD: lambda graph, _: any("vocab_size" in tensor.axes for tensor in graph.outputs),
    traits.ATTENTIONS: lambda graph, _: "attentions" in _outputs(graph),
    traits.CROSS_ATTENTIONS: lambda graph, _: "cross_attentions" in _outputs(graph),
    traits.HIDDEN_STATES: lambda graph, _: not _outputs(graph).isdisjoint({"hidden_states", "last_hidden_state"}),
    traits.CACHE: lambda graph, _: graph.variant.cache,
    traits.HEAD_MASK: lambda graph, _: "head_mask" in _inputs(graph),
    traits.INPUTS_EMBEDS: lambda graph, _: "inputs_embeds" in _inputs(graph),
    traits.UNSCALED: lambda _, config: config.hidden_size == config.num_attention_heads,
    traits.TOKEN_TYPES: lambda graph, _: "token_type_ids" in _inputs(graph),
    traits.LAST_TOKEN: lambda graph, _: LAST_LOGITS in graph.outputs,
    traits.MASKED_TOKENS: lambda graph, _: MASKED_LOGITS in graph.outputs or MASKED_POSITIONS in graph.inputs,
    traits.FIRST_TOKEN: lambda graph, _: "logits" in _outputs(graph) and not _has_rows(graph),
}
"""The features, each with a function of a graph's plan and its network's config that says whether the graph has it."""


def traits_of_graph(graph: GraphPlan, composition: Composition) -> GraphTraits:
    """Return the traits of a graph of the network, or of the two networks, that `composition` describes."""
    config = composition.encoder if graph.variant.standalone else composition.decoder
    if config is None:
        return GraphTraits(layers=0)  # the graph only projects the output of another architecture's encoder
    return GraphTraits(
        layers=config.num_hidden_layers,
        cross_attention=config.add_cross_attention,
        features=frozenset(name for name, holds in FEATURES.items() if holds(graph, config)),
    )


def _inputs(graph: GraphPlan) -> set[str]:
    return {tensor.name for tensor in graph.inputs}


def _outputs(graph: GraphPlan) -> set[str]:
    return {tensor.name for tensor in graph.outputs}


def _has_rows(graph: GraphPlan) -> bool:
    """Return whether the logits belong to tokens: to each, to the last, or to the masked ones."""
    return any(tensor.per_token or "vocab_size" in tensor.axes for tensor in graph.outputs if tensor.name == "logits")
