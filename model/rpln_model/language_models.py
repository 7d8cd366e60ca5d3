# ruff: noqa: FBT001, FBT002, PLR0917 - the documented interface fixes these arguments' order and types
"""The models whose logits are over the vocabulary.

Shape suffixes: see `rpln_model.layers`. The inputs that all heads share are described at
`rpln_model.encoder.RobertaPreLayerNormModel`, and so is what comes back beside the loss and the logits.
"""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import RobertaPreLayerNormConfig
from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions, MaskedLMOutput

from rpln_model.base import BASE_MODEL_PREFIX, RobertaPreLayerNormPreTrainedModel
from rpln_model.cache import KeyValue, Past
from rpln_model.config import returns_dict
from rpln_model.encoder import RobertaPreLayerNormModel, internals
from rpln_model.errors import ModelInputError
from rpln_model.generation import RobertaGenerationMixin
from rpln_model.losses import token_loss, with_loss

_log = logging.getLogger(__name__)


class _LanguageModel(RobertaPreLayerNormPreTrainedModel):
    """A model with a language-modelling head; its projection is the word table's own where embeddings are tied."""

    # Name -> the one that it is tied to, where the config ties word embeddings; the biases are one in any case.
    _tied_weights_keys = {  # noqa: RUF012 - the library's attribute
        "lm_head.decoder.weight": f"{BASE_MODEL_PREFIX}.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    }

    def __init__(self, config: RobertaPreLayerNormConfig) -> None:
        super().__init__(config)
        self.roberta_prelayernorm = RobertaPreLayerNormModel(config, add_pooling_layer=False)
        self.lm_head = LMHead(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        """The projection onto the vocabulary."""
        decoder: nn.Linear = self.lm_head.decoder
        return decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the projection onto the vocabulary, and its bias under both its names."""
        self.lm_head.decoder = new_embeddings
        self.lm_head.bias = new_embeddings.bias

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Return the names of tied weights -> those they are tied to, as transformers 5 asks for them."""
        ties: dict[str, str] = super().get_expanded_tied_weights_keys(all_submodels=all_submodels)
        return ties | {"lm_head.decoder.bias": "lm_head.bias"}


class RobertaPreLayerNormForMaskedLM(_LanguageModel):
    """Logits over the vocabulary for every token, each seen in the whole of its context."""

    def __init__(self, config: RobertaPreLayerNormConfig) -> None:
        super().__init__(config)
        if config.is_decoder:
            _log.warning(
                "RobertaPreLayerNormForMaskedLM of a decoder's config: its tokens see only what is before them"
            )

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
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        masked_positions: Tensor | None = None,
    ) -> tuple[Any, ...] | MaskedLMOutput:
        """`logits` (batch, sequence, vocabulary), and a `loss` given int64 `labels` (batch, sequence), -100 ignored.

        `masked_positions` computes the logits of some tokens only, and labels are then of these: int64 (batch, masks)
        gives (batch, masks, vocabulary); bool (batch, sequence), true at these tokens, gives (tokens, vocabulary), the
        first text's tokens first.
        """
        outputs = self.roberta_prelayernorm(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        listed = masked_positions is not None and masked_positions.dtype == torch.bool
        logits_BTV = self.lm_head(_selected(outputs.last_hidden_state, masked_positions))
        logits_BTV = logits_BTV.squeeze(0) if listed else logits_BTV
        loss = None if labels is None else token_loss(logits_BTV, labels)
        if not returns_dict(self.config, asked=return_dict):
            return with_loss(loss, logits_BTV, *internals(outputs))
        return MaskedLMOutput(
            loss=loss, logits=logits_BTV, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class RobertaPreLayerNormForCausalLM(_LanguageModel, RobertaGenerationMixin):
    """Logits over the vocabulary for the token after each token."""

    def __init__(self, config: RobertaPreLayerNormConfig) -> None:
        super().__init__(config)
        if not config.is_decoder:
            _log.warning(
                "RobertaPreLayerNormForCausalLM of an encoder's config: set is_decoder=True to hide what follows"
            )

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
        labels: Tensor | None = None,
        past_key_values: Past | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int = 0,
        *,
        shift_labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> tuple[Any, ...] | CausalLMOutputWithCrossAttentions:
        """`logits` (batch, sequence, vocabulary), and given `labels` (batch, sequence) the `loss`; no cache with it.

        Labels are the input ids themselves: the shift by one token happens here. -100 is ignored. `logits_to_keep`
        computes the logits of that many last tokens only, 0 those of all; labels are then of these tokens.
        `shift_labels` are labels that have been shifted already, and `num_items_in_batch` is what the sum of losses is
        divided by instead of the number of labels, as in transformers' Trainer.
        """
        outputs = self.roberta_prelayernorm(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            past_key_values=past_key_values,
            use_cache=use_cache if labels is None else False,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        # In a slice, -0 is the start.
        logits_BTV = self.lm_head(outputs.last_hidden_state[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits_BTV,
                labels=labels,
                vocab_size=self.config.vocab_size,
                num_items_in_batch=num_items_in_batch,
                shift_labels=shift_labels,
            )
        if not returns_dict(self.config, asked=return_dict):
            return with_loss(loss, logits_BTV, *internals(outputs))
        return CausalLMOutputWithCrossAttentions(
            loss=loss,
            logits=logits_BTV,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
        )

    def cross_key_values(self, encoder_hidden_states: Tensor) -> list[KeyValue]:
        """What each layer's cross-attention reads of an encoder's output: it is the same at every step.

        Args:
            encoder_hidden_states: (batch, encoder_sequence, hidden), of this decoder's width.

        Returns:
            A key and a value per layer, each (batch, heads, encoder_sequence, head size).

        Raises:
            ModelInputError: this decoder has no cross-attention, or another width.
        """
        if not self.config.add_cross_attention:
            raise ModelInputError(
                "this decoder has no cross-attention, so that an encoder's output means nothing to it; build it from a "
                "config with add_cross_attention=True"
            )
        check_width(encoder_hidden_states, self.config.hidden_size)
        layers: Any = self.roberta_prelayernorm.encoder.layer
        return [layer.crossattention.self.key_value(encoder_hidden_states) for layer in layers]


class LMHead(nn.Module):
    """LN(gelu(x)) onto the vocabulary; `bias` is the decoder's own under its second state-dict name."""

    def __init__(self, config: RobertaPreLayerNormConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = self.decoder.bias
        if not config.tie_word_embeddings:
            self.register_state_dict_post_hook(_separate_biases)  # type: ignore[no-untyped-call]  # untyped in torch

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(batch, sequence, hidden) -> (batch, sequence, vocabulary)."""
        logits_BTV: Tensor = self.decoder(self.layer_norm(F.gelu(self.dense(x_BTD))))
        return logits_BTV

    def _tie_weights(self) -> None:
        """Join both names of the bias, as transformers 4.57 asks of modules before it loads weights and after."""
        if self.decoder.bias.is_meta:
            self.decoder.bias = self.bias
        else:
            self.bias = self.decoder.bias


def _separate_biases(_head: nn.Module, state: dict[str, Tensor], prefix: str, _metadata: Any) -> None:
    """Save both names: transformers 5 joins them only where embeddings are tied, and would find the decoder's missing.

    What shares memory is saved once.
    """
    name = f"{prefix}decoder.bias"
    if not isinstance(state[name], nn.Parameter):  # as it is where the caller wants the parameters themselves
        state[name] = state[name].clone()


def _selected(x_BTD: Tensor, positions: Tensor | None) -> Tensor:
    """The tokens at `positions`: all, by text and place, or those that a mask marks, as if they were one text."""
    if positions is None:
        return x_BTD
    if positions.dtype == torch.bool:
        return x_BTD[positions][None]
    return x_BTD.gather(1, positions[..., None].expand(-1, -1, x_BTD.shape[-1]))


def check_width(encoder_hidden_states: Tensor, width: int) -> None:
    """Refuse an encoder's output that is not (batch, encoder_sequence, `width`).

    Raises:
        ModelInputError: naming both widths.
    """
    if encoder_hidden_states.shape[-1] != width:
        raise ModelInputError(
            f"the encoder's hidden states are {encoder_hidden_states.shape[-1]} wide; expected {width}, as wide as "
            "those of the encoder that this decoder was trained with"
        )
