# ruff: noqa: FBT001, FBT002, PLR0917 - the documented interface fixes these arguments' order and types
"""The embeddings, the layers, and the model that every head is built on.

`rpln_model.layers` explains the suffixes of tensor names.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import RobertaPreLayerNormConfig
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from rpln_model.base import RobertaPreLayerNormPreTrainedModel
from rpln_model.cache import Past, cache_from_past, holds_memory, length_of_past, slots
from rpln_model.config import ABSOLUTE, padding_row, position_type, pruned_heads, returns_dict
from rpln_model.errors import ConfigError, ModelInputError
from rpln_model.layers import Attention, Layer
from rpln_model.masks import cross_attention_mask, head_masks, self_attention_mask


class RobertaPreLayerNormModel(RobertaPreLayerNormPreTrainedModel):
    """The model without a head: embeddings, layers, a final LayerNorm, and a pooler over the first token.

    There is no pooler if `add_pooling_layer` is False. The interface is the one that transformers 4.56 documents.
    Inputs, which the models with a head share:
        input_ids: int64 (batch, sequence). Give either these or `inputs_embeds`.
        attention_mask: (batch, past + sequence) or (batch, sequence, past + sequence): 1 for a token that may be
            attended to, 0 for one that may not.
        token_type_ids: int64 (batch, sequence), less than `type_vocab_size`. None: all 0.
        position_ids: int64 (batch, sequence), rows of the table of positions. None: `pad_token_id + 1` for the first
            token that is not padding, and one more for each further one.
        head_mask: (heads,) or (layers, heads): 1 to keep a head, 0 to silence it.
        inputs_embeds: (batch, sequence, hidden), used in place of word embeddings.
        encoder_hidden_states: (batch, encoder_sequence, hidden), which the cross-attention of a decoder reads.
        encoder_attention_mask: (batch, encoder_sequence) or (batch, sequence, encoder_sequence).
        past_key_values: a cache, see `rpln_model.cache`.
        use_cache: whether a decoder returns `past_key_values`. None, as for the next three: what the config says.
        output_attentions: whether to return the attention probabilities.
        output_hidden_states: whether to return the residual stream before each layer and after the last.
        return_dict: whether to return a `ModelOutput`; otherwise a tuple without the values that are None.

    Outputs:
        last_hidden_state: (batch, sequence, hidden).
        pooler_output: (batch, hidden).
        past_key_values: the cache, if `use_cache`.
        hidden_states: layers + 1 tensors (batch, sequence, hidden), the last of them before the final LayerNorm.
        attentions: a tensor (batch, heads, sequence, keys) for each layer.
        cross_attentions: a tensor (batch, heads, sequence, encoder_sequence) for each layer.

    Raises ModelInputError for arguments that contradict each other or the config.
    """

    def __init__(self, config: RobertaPreLayerNormConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pooler = Pooler(config) if add_pooling_layer else None
        self.encoder.prune_heads(pruned_heads(config))
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: Past | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> tuple[Any, ...] | BaseModelOutputWithPoolingAndCrossAttentions:
        """Run the model. The class describes the inputs and outputs."""
        config = self.config
        self._check_inputs(input_ids, inputs_embeds, encoder_hidden_states)
        use_cache = config.is_decoder and (config.use_cache if use_cache is None else use_cache)
        if self.training and any(layer.gradient_checkpointing for layer in self.encoder.layer):
            use_cache = False  # a layer that runs twice would store its keys twice
            if past_key_values is not None:
                raise ModelInputError(
                    "past_key_values were given while gradients are checkpointed in training, where each layer runs "
                    "twice; leave them out, or call gradient_checkpointing_disable()"
                )
        cache = cache_from_past(past_key_values, use_cache=use_cache, layers=config.num_hidden_layers)
        past_length = length_of_past(past_key_values)

        stack = self.encoder(
            self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds, past_length),
            attention_mask=attention_mask,
            head_mask=head_mask,
            memory_BSD=encoder_hidden_states if config.is_decoder else None,
            memory_mask=encoder_attention_mask,
            cache=cache,
            past_length=past_length,
            output_attentions=config.output_attentions if output_attentions is None else output_attentions,
            output_hidden_states=config.output_hidden_states if output_hidden_states is None else output_hidden_states,
        )
        last_BTD = self.LayerNorm(stack.last)
        pooled_BD = self.pooler(last_BTD) if self.pooler is not None else None

        output = BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=last_BTD,
            pooler_output=pooled_BD,
            past_key_values=cache,
            hidden_states=stack.hidden_states,
            attentions=stack.attentions,
            cross_attentions=stack.cross_attentions,
        )
        if returns_dict(config) if return_dict is None else return_dict:
            return output
        return last_BTD, pooled_BD, *internals(output)

    def _check_inputs(
        self, input_ids: Tensor | None, inputs_embeds: Tensor | None, encoder_hidden_states: Tensor | None
    ) -> None:
        if input_ids is not None and inputs_embeds is not None:
            raise ModelInputError("You cannot specify both input_ids and inputs_embeds at the same time")
        if input_ids is None and inputs_embeds is None:
            raise ModelInputError("You have to specify either input_ids or inputs_embeds")
        if self.config.is_decoder and encoder_hidden_states is not None and not self.config.add_cross_attention:
            raise ModelInputError(
                "encoder_hidden_states were given, but this decoder has no cross-attention; "
                "build it from a config with add_cross_attention=True"
            )

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the table of word embeddings."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the table of word embeddings by another `nn.Embedding`.

        A tied output projection follows with the next call of `tie_weights`.
        """
        assert isinstance(value, nn.Embedding)
        self.embeddings.word_embeddings = value


def internals(output: BaseModelOutputWithPoolingAndCrossAttentions) -> tuple[Any, ...]:
    """Return what follows the pooled output in a tuple: cache, hidden states and attentions, those not None."""
    values = (output.past_key_values, output.hidden_states, output.attentions, output.cross_attentions)
    return tuple(value for value in values if value is not None)


class Embeddings(nn.Module):
    """The sum of word, token type and position embeddings, normalised.

    With relative positions there are no position embeddings; the layers add the positions to the attention scores.
    """

    def __init__(self, config: RobertaPreLayerNormConfig) -> None:
        super().__init__()
        size, padding = config.hidden_size, padding_row(config)
        self.padding_idx = padding
        self.absolute = position_type(config) == ABSOLUTE
        self.word_embeddings = nn.Embedding(config.vocab_size, size, padding_idx=padding)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, size, padding_idx=padding)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, size)
        self.LayerNorm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        input_ids_BT: Tensor | None,
        token_type_ids_BT: Tensor | None,
        position_ids_BT: Tensor | None,
        inputs_embeds_BTD: Tensor | None,
        past_length: int,
    ) -> Tensor:
        """Return the input of the first layer, (batch, sequence, hidden)."""
        x_BTD = self.word_embeddings(input_ids_BT) if inputs_embeds_BTD is None else inputs_embeds_BTD
        if token_type_ids_BT is None:
            x_BTD = x_BTD + self.token_type_embeddings.weight[0]
        else:
            x_BTD = x_BTD + self.token_type_embeddings(token_type_ids_BT)
        if self.absolute:
            if position_ids_BT is None:
                position_ids_BT = self._positions(input_ids_BT, x_BTD, past_length)
            x_BTD = x_BTD + self.position_embeddings(position_ids_BT)
        embedded_BTD: Tensor = self.dropout(self.LayerNorm(x_BTD))
        return embedded_BTD

    def _positions(self, input_ids_BT: Tensor | None, x_BTD: Tensor, past_length: int) -> Tensor:
        """Return the positions: `padding_idx` for padding, and numbers that count up from there for other tokens.

        Numbering goes on from `past_length`. With `inputs_embeds` padding cannot be told from other tokens, so that
        every token is counted, and always from the start.
        """
        if input_ids_BT is None:
            first = self.padding_idx + 1
            return torch.arange(first, first + x_BTD.shape[1], device=x_BTD.device)[None]
        real_BT = input_ids_BT.ne(self.padding_idx).long()
        return (real_BT.cumsum(dim=1) + past_length) * real_BT + self.padding_idx


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The output of the layers, with the hidden states and attentions that the caller asked for."""

    last: Tensor
    hidden_states: tuple[Tensor, ...] | None
    attentions: tuple[Tensor, ...] | None
    cross_attentions: tuple[Tensor, ...] | None


class Encoder(nn.Module):
    """The layers. Masks and relative distances, which all layers share, are computed once before the first layer."""

    def __init__(self, config: RobertaPreLayerNormConfig) -> None:
        super().__init__()
        self.is_decoder = config.is_decoder
        self.max_position = config.max_position_embeddings
        self.absolute = position_type(config) == ABSOLUTE
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def forward(
        self,
        x_BTD: Tensor,
        *,
        attention_mask: Tensor | None,
        head_mask: Tensor | None,
        memory_BSD: Tensor | None,
        memory_mask: Tensor | None,
        cache: Any,
        past_length: int,
        output_attentions: bool,
        output_hidden_states: bool,
    ) -> Stack:
        """Run all layers on the residual stream. Masks are those that the caller of the model gave."""
        mask = self_attention_mask(
            attention_mask, hidden_BTD=x_BTD, past_length=past_length, is_decoder=self.is_decoder
        )
        reads_memory = memory_BSD is not None or holds_memory(cache)
        memory_mask = cross_attention_mask(memory_mask, hidden_BTD=x_BTD) if reads_memory else None
        head_factors = head_masks(head_mask, layers=len(self.layer), dtype=x_BTD.dtype)
        distance_TS = None if self.absolute else self._distances(x_BTD, past_length)

        hidden_states, attentions, cross_attentions = [x_BTD], [], []
        for index, layer in enumerate(self.layer):
            x_BTD, probabilities_BHTS, cross_probabilities_BHTS = layer(
                x_BTD,
                memory_BSD,  # positional: gradient checkpointing passes no gradients through keyword arguments
                mask=mask,
                head_mask=head_factors[index],
                distance_TS=distance_TS,
                reads_memory=reads_memory,
                memory_mask=memory_mask,
                slots=slots(cache, index),
            )
            if output_hidden_states:
                hidden_states.append(x_BTD)
            if output_attentions:
                attentions.append(probabilities_BHTS)
                cross_attentions.append(cross_probabilities_BHTS)
        return Stack(
            last=x_BTD,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
            cross_attentions=tuple(cross_attentions) if output_attentions and reads_memory else None,
        )

    def prune_heads(self, heads: dict[int, set[int]]) -> None:
        """Remove heads of the self-attention of each layer. They are numbered as before any pruning.

        Raises ConfigError if a layer or a head does not exist, or if a layer would keep no head. Then nothing is
        changed.
        """
        kept = [(attention, attention.places_without(gone)) for attention, gone in self._attentions(heads)]
        for attention, places in kept:
            attention.keep(places)

    def _attentions(self, heads: dict[int, set[int]]) -> Iterator[tuple[Attention, set[int]]]:
        for index, gone in heads.items():
            if not 0 <= index < len(self.layer):
                raise ConfigError(f"cannot prune heads of layer {index}: the layers are 0 to {len(self.layer) - 1}")
            layer = self.layer[index]
            assert isinstance(layer, Layer)
            yield layer.attention, gone

    def _distances(self, x_BTD: Tensor, past_length: int) -> Tensor:
        """Return for each query and key the row of the table of distances: query position minus key position.

        The first row stands for the lowest distance that is possible.
        """
        tokens = x_BTD.shape[1]
        query_T = torch.arange(tokens, device=x_BTD.device) + past_length
        key_S = torch.arange(past_length + tokens, device=x_BTD.device)
        return query_T[:, None] - key_S + (self.max_position - 1)


class Pooler(nn.Module):
    """A linear layer and tanh over the first token, whatever it is. With padding on the left it is a padding token."""

    def __init__(self, config: RobertaPreLayerNormConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the pooled output, (batch, hidden), of hidden states (batch, sequence, hidden)."""
        return torch.tanh(self.dense(x_BTD[:, 0]))
