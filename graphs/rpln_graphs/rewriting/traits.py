"""Traits of a traced graph: what decides how often each pass must change it.

A formula such as "one fused attention for each layer" holds for the plain architecture. Features name what a graph may
have besides, and a pass lists in `unless` the features with which it has nothing to do.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

RELATIVE_POSITIONS: Final = "relative positions"
ATTENTIONS: Final = "attentions as an output"
CROSS_ATTENTIONS: Final = "cross_attentions as an output"
HEAD_MASK: Final = "head_mask as an input"
INPUTS_EMBEDS: Final = "inputs_embeds as an input"
OTHER_ACTIVATION: Final = "an activation that is not gelu"
TANH_GELU: Final = "the approximation of gelu by tanh as the activation"
GELU_HEAD: Final = "a head with a gelu of its own"
CACHE: Final = "a cache of keys and values"
FIRST_TOKEN: Final = "a head that reads the first token"
LAST_TOKEN: Final = "a head that reads the last token"
MASKED_TOKENS: Final = "a head that reads the masked tokens"
HIDDEN_STATES: Final = "hidden_states as an output"
TOKEN_TYPES: Final = "token_type_ids as an input"
UNSCALED: Final = "heads of size 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphTraits:
    """The number of layers in a graph, whether they have cross-attention, and the graph's features."""

    layers: int
    cross_attention: bool = False
    features: frozenset[str] = frozenset()

    @property
    def attentions(self) -> int:
        """The number of attentions: one for each layer, or two with cross-attention."""
        return (2 if self.cross_attention else 1) * self.layers

    @property
    def blocks(self) -> int:
        """The number of blocks that add to the residual stream: the attentions, and one feed-forward for each layer."""
        return self.attentions + self.layers

    def attentions_except(self, *, of_self: Collection[str], of_cross: Collection[str] = ()) -> int:
        """Return the number of attentions without those that are exceptions.

        Self-attentions are exceptions if the graph has a feature in `of_self`, cross-attentions if it has one in
        `of_cross`.
        """
        own = 0 if self.features.intersection(of_self) else self.layers
        cross = self.attentions - self.layers
        return own + (0 if self.features.intersection(of_cross) else cross)
