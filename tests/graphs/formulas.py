"""The traits of the traced networks that formulas of counts depend on, written by hand for each task."""

from rpln_graphs.rewriting.traits import (
    CACHE,
    FIRST_TOKEN,
    GELU_HEAD,
    HIDDEN_STATES,
    LAST_TOKEN,
    TOKEN_TYPES,
    GraphTraits,
)
from rpln_graphs.stages import EncoderStage
from tests.graphs.networks import Network

HEADS = {
    "feature-extraction": {HIDDEN_STATES},
    "fill-mask": {GELU_HEAD},
    "text-classification": {FIRST_TOKEN},
    "token-classification": set[str](),
    "question-answering": set[str](),
    "multiple-choice": {FIRST_TOKEN},
    "text-generation": {GELU_HEAD, LAST_TOKEN},
    "text2text-generation": {GELU_HEAD, LAST_TOKEN},
}
CACHED = {"with-past", "prefill", "decode"}


def formulas_of(network: Network, task: str, variant: str) -> GraphTraits:
    """Return the traits of a graph in fp32 or lower. A decoder's gives only the last logits."""
    if isinstance(network.model, EncoderStage):
        stage = network.model.base_model
        layers = 0 if stage is None else stage.config.num_hidden_layers
        return GraphTraits(layers=layers, features=frozenset({HIDDEN_STATES} if layers else ()))
    features = HEADS[task] | ({CACHE} if variant in CACHED else set())
    if any(tensor.name == "token_type_ids" for tensor in network.inputs):
        features |= {TOKEN_TYPES}
    return GraphTraits(
        layers=network.config.num_hidden_layers,
        cross_attention=network.config.add_cross_attention,
        features=frozenset(features),
    )
