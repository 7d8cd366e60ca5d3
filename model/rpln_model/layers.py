"""One layer of the network. Modules have the names that they have in transformers, so that checkpoints fit.

The suffix of a tensor's name gives its axes, here and in the files that build on this one:
    B batch        T query tokens (the sequence)   S key tokens (sequence, past and sequence, or encoder sequence)
    H heads        K head size                     D hidden size = H * K before pruning
    L layers       V vocabulary
Where `unflatten`, `flatten` or broadcasting can do it, sizes that vary are not read, so that they stay dynamic in a
traced graph.
"""

import torch
from torch import Tensor, nn
from transformers import RobertaPreLayerNormConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from rpln_model.cache import KeyValue, Slot
from rpln_model.config import ABSOLUTE, RELATIVE_KEY_QUERY, activation, position_type
from rpln_model.errors import ConfigError


class Layer(GradientCheckpointingLayer):
    """A layer of the network.

    x = x + Attention(LN(x))
    x = x + CrossAttention(LN(x), memory)    (only in a decoder that reads an encoder's output, the memory)
    x = x + FeedForward(LN(x))
    """

    def __init__(self, config: RobertaPreLayerNormConfig) -> None:
        super().__init__()
        self.chunk_size = config.chunk_size_feed_forward
        self.attention = Attention(config, positions=position_type(config))
        if config.add_cross_attention:
            self.crossattention = Attention(config, positions=ABSOLUTE)
        self.intermediate = Intermediate(config)
        self.output = Projection(config.intermediate_size, config.hidden_size, dropout=config.hidden_dropout_prob)

    def forward(
        self,
        x_BTD: Tensor,
        memory_BSD: Tensor | None,
        *,
        mask: Tensor | None,
        head_mask: Tensor | None,
        distance_TS: Tensor | None,
        reads_memory: bool,
        memory_mask: Tensor | None,
        slots: tuple[Slot | None, Slot | None],
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the new residual stream, the probabilities of the attention and those of the cross-attention.

        The last are None unless the layer reads a memory. The memory is `memory_BSD`, or the second slot holds its keys
        and values.
        """
        self_slot, cross_slot = slots
        cross_probabilities_BHTS = None

        change_BTD, probabilities_BHTS = self.attention(
            x_BTD, mask=mask, head_mask=head_mask, distance_TS=distance_TS, slot=self_slot
        )
        x_BTD = x_BTD + change_BTD
        if reads_memory:
            change_BTD, cross_probabilities_BHTS = self.crossattention(
                x_BTD, memory_BSD=memory_BSD, mask=memory_mask, head_mask=head_mask, slot=cross_slot
            )
            x_BTD = x_BTD + change_BTD
        x_BTD = x_BTD + self._feed_forward(x_BTD)
        return x_BTD, probabilities_BHTS, cross_probabilities_BHTS

    def _feed_forward(self, x_BTD: Tensor) -> Tensor:
        # Chunks limit the memory that eager execution needs. In a graph they would change nothing, and are left out.
        if self.chunk_size and not torch.compiler.is_exporting():
            chunks = torch.split(x_BTD, self.chunk_size, dim=1)
            return torch.cat([self.output(self.intermediate(chunk)) for chunk in chunks], dim=1)
        change_BTD: Tensor = self.output(self.intermediate(x_BTD))
        return change_BTD


class Attention(nn.Module):
    """LayerNorm, attention to the tokens themselves or to a memory, and the output projection."""

    def __init__(self, config: RobertaPreLayerNormConfig, *, positions: str) -> None:
        super().__init__()
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self = AttentionHeads(config, positions=positions)
        self.output = Projection(config.hidden_size, config.hidden_size, dropout=config.hidden_dropout_prob)
        self.all_heads = config.num_attention_heads
        self.heads = list(range(self.all_heads))

    def forward(
        self,
        x_BTD: Tensor,
        *,
        mask: Tensor | None,
        head_mask: Tensor | None,
        slot: Slot | None,
        distance_TS: Tensor | None = None,
        memory_BSD: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return what is to be added to the residual stream, and the attention probabilities."""
        normed_BTD = self.LayerNorm(x_BTD)
        source_BSD = normed_BTD if memory_BSD is None else memory_BSD
        context_BTD, probabilities_BHTS = self.self(
            normed_BTD, source_BSD, mask=mask, head_mask=head_mask, distance_TS=distance_TS, slot=slot
        )
        return self.output(context_BTD), probabilities_BHTS

    def places_without(self, heads: set[int]) -> list[int]:
        """Return the places of the heads that remain when `heads` are pruned, some of which may be gone already.

        Raises ConfigError if a head does not exist, or if none would remain.
        """
        unknown = heads.difference(range(self.all_heads))
        kept = [place for place, head in enumerate(self.heads) if head not in heads]
        if unknown or not kept:
            raise ConfigError(
                f"cannot prune heads {sorted(heads)} of a layer whose heads are {self.heads}: "
                + ("there is no such head" if unknown else "none would be left")
            )
        return kept

    def keep(self, places: list[int]) -> None:
        """Remove all heads except those at the given places."""
        size = self.self.head_size
        rows = torch.cat([torch.arange(place * size, (place + 1) * size) for place in places])
        for name in ("query", "key", "value"):
            setattr(self.self, name, _selected(getattr(self.self, name), rows, dim=0))
        self.output.dense = _selected(self.output.dense, rows, dim=1)
        self.heads = [self.heads[place] for place in places]


class AttentionHeads(nn.Module):
    """Attention: softmax((Q K^T + relative positions) / sqrt(K) + mask) V, written out without a fused kernel.

    Relative positions follow Shaw et al. 2018 (relative_key) and Huang et al. 2020, method 4 (relative_key_query).
    """

    def __init__(self, config: RobertaPreLayerNormConfig, *, positions: str) -> None:
        super().__init__()
        self.head_size = config.hidden_size // config.num_attention_heads
        self.scale = self.head_size**-0.5
        self.positions = positions
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        if positions != ABSOLUTE:
            self.distance_embedding = nn.Embedding(2 * config.max_position_embeddings - 1, self.head_size)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(
        self,
        x_BTD: Tensor,
        source_BSD: Tensor,
        *,
        mask: Tensor | None,
        head_mask: Tensor | None,
        distance_TS: Tensor | None,
        slot: Slot | None,
    ) -> tuple[Tensor, Tensor]:
        """Return the concatenated outputs of the heads, and the probabilities after dropout and the head mask."""
        query_BHTK = self._heads(self.query(x_BTD))
        key_BHSK, value_BHSK = self._stored_or_projected(source_BSD, slot)

        scores_BHTS = query_BHTK @ key_BHSK.transpose(-1, -2)
        if distance_TS is not None:
            scores_BHTS = scores_BHTS + self._relative_scores(query_BHTK, key_BHSK, distance_TS)
        scores_BHTS = scores_BHTS * self.scale
        if mask is not None:
            scores_BHTS = scores_BHTS + mask
        probabilities_BHTS = self.dropout(scores_BHTS.softmax(dim=-1))
        if head_mask is not None:
            probabilities_BHTS = probabilities_BHTS * head_mask

        context_BTD = (probabilities_BHTS @ value_BHSK).transpose(1, 2).flatten(2)
        return context_BTD, probabilities_BHTS

    def _stored_or_projected(self, source_BSD: Tensor, slot: Slot | None) -> KeyValue:
        if slot is not None and (stored := slot.stored()) is not None:
            return stored
        key_BHSK, value_BHSK = self.key_value(source_BSD)
        return (key_BHSK, value_BHSK) if slot is None else slot.update(key_BHSK, value_BHSK)

    def key_value(self, source_BSD: Tensor) -> KeyValue:
        """Return the keys and values of `source_BSD`, each (batch, heads, tokens, head size)."""
        return self._heads(self.key(source_BSD)), self._heads(self.value(source_BSD))

    def _heads(self, x_BTD: Tensor) -> Tensor:
        x_BTHK: Tensor = x_BTD.unflatten(-1, (-1, self.head_size))  # type: ignore[no-untyped-call]  # untyped in torch
        return x_BTHK.transpose(1, 2)

    def _relative_scores(self, query_BHTK: Tensor, key_BHSK: Tensor, distance_TS: Tensor) -> Tensor:
        position_TSK = self.distance_embedding(distance_TS)
        scores_BHTS = torch.einsum("bhtk,tsk->bhts", query_BHTK, position_TSK)
        if self.positions == RELATIVE_KEY_QUERY:
            scores_BHTS = scores_BHTS + torch.einsum("bhsk,tsk->bhts", key_BHSK, position_TSK)
        return scores_BHTS


class Intermediate(nn.Module):
    """The first half of the feed-forward network: LayerNorm, a wider linear layer and the activation."""

    def __init__(self, config: RobertaPreLayerNormConfig) -> None:
        super().__init__()
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = activation(config)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the activations, (batch, sequence, intermediate), of hidden states (batch, sequence, hidden)."""
        return self.activation(self.dense(self.LayerNorm(x_BTD)))


class Projection(nn.Module):
    """A linear layer whose output is added to the residual stream."""

    def __init__(self, inputs: int, outputs: int, *, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, outputs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output, (..., outputs), of a tensor (..., inputs)."""
        change: Tensor = self.dropout(self.dense(x))
        return change


def _selected(linear: nn.Linear, rows: Tensor, *, dim: int) -> nn.Linear:
    """Return the linear layer with only some of its outputs (`dim` 0) or of its inputs (`dim` 1)."""
    rows = rows.to(linear.weight.device)
    weight = linear.weight.detach().index_select(dim, rows)
    bias = linear.bias.detach() if dim == 1 else linear.bias.detach().index_select(0, rows)
    selected = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    selected.weight = nn.Parameter(weight, requires_grad=linear.weight.requires_grad)
    selected.bias = nn.Parameter(bias, requires_grad=linear.bias.requires_grad)
    return selected.train(linear.training)
