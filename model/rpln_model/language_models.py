# ruff: noqa: FBT001, FBT002, PLR0917 - the documented interface fixes these arguments' order and types
"""The language models, whose logits are over the vocabulary.

`rpln_model.layers` explains the suffixes of tensor names, `rpln_model.encoder.RobertaPreLayerNormModel` the inputs that
all models share, and the outputs besides the loss and the logits.
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
    """A model with a language-modelling head. With tied embeddings, its projection is the table of words."""

    # The weight that each name is tied to if the config ties word embeddings. The biases are always tied.
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
        """Return the projection onto the vocabulary."""
        decoder: nn.Linear = self.lm_head.decoder
        return decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the projection onto the vocabulary, and its bias under both of its names."""
        self.lm_head.decoder = new_embeddings
        self.lm_head.bias = new_embeddings.bias

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Return, for the name of each tied weight, the name of the one it is tied to. transformers 5 asks for this."""
        ties: dict[str, str] = super().get_expanded_tied_weights_keys(all_submodels=all_submodels)
        return ties | {"lm_head.decoder.bias": "lm_head.bias"}


class RobertaPreLayerNormForMaskedLM(_LanguageModel):
    """A masked language model: every token gets logits over the vocabulary, from the tokens on both of its sides."""

    def __init__(self, config: RobertaPreLayerNormConfig) -> None:
        super().__init__(config)
        if config.is_decoder:
            _log.warning(
                "RobertaPreLayerNormForMaskedLM has a config with is_decoder=True: a token sees only those before it"
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
        """Return `logits` (batch, sequence, vocabulary) and, if `labels` are given, the `loss`.

        Labels are int64 (batch, sequence); -100 is ignored. With `masked_positions` only some tokens get logits, and
        labels are for these tokens. The positions are either
        - int64 (batch, masks): the logits are (batch, masks, vocabulary), or
        - bool (batch, sequence), true for the tokens that get logits: the logits are (tokens, vocabulary), text by
          text.
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
    """A causal language model: every token gets logits over the vocabulary for the token that follows it."""

    def __init__(self, config: RobertaPreLayerNormConfig) -> None:
        super().__init__(config)
        if not config.is_decoder:
            _log.warning(
                "RobertaPreLayerNormForCausalLM has a config without is_decoder=True: a token sees those after it, too"
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
        """Return `logits` (batch, sequence, vocabulary) and, if labels are given, the `loss` and no cache.

        Args, besides those that all models share:
            labels: (batch, sequence), the input ids; they are shifted by one token here. -100 is ignored.
            logits_to_keep: how many of the last tokens get logits; 0 means all. Labels are for these tokens.
            shift_labels: labels that are already shifted, as transformers' Trainer passes them.
            num_items_in_batch: what the sum of the losses is divided by, as in transformers' Trainer. None: the
                number of labels.
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
        """Return the keys and values that each layer reads of an encoder's output, in every step.

        Args:
            encoder_hidden_states: (batch, encoder_sequence, hidden), as wide as this decoder.

        Returns a key and a value for each layer, each (batch, heads, encoder_sequence, head size). Raises
        ModelInputError if this decoder has no cross-attention or another width.
        """
        if not self.config.add_cross_attention:
            raise ModelInputError(
                "this decoder has no cross-attention and cannot read an encoder's output; build it from a "
                "config with add_cross_attention=True"
            )
        check_width(encoder_hidden_states, self.config.hidden_size)
        layers: Any = self.roberta_prelayernorm.encoder.layer
        return [layer.crossattention.self.key_value(encoder_hidden_states) for layer in layers]


class LMHead(nn.Module):
    """A linear layer, gelu, LayerNorm and the projection onto the vocabulary.

    Checkpoints have the projection's bias under two names, `bias` and `decoder.bias`; here both are one parameter.
    """

    def __init__(self, config: RobertaPreLayerNormConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = self.decoder.bias
        if not config.tie_word_embeddings:
            self.register_state_dict_post_hook(_separate_biases)  # type: ignore[no-untyped-call]  # untyped in torch

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the logits, (batch, sequence, vocabulary), of hidden states (batch, sequence, hidden)."""
        logits_BTV: Tensor = self.decoder(self.layer_norm(F.gelu(self.dense(x_BTD))))
        return logits_BTV

    def _tie_weights(self) -> None:
        """Make both names of the bias one parameter. transformers 4.57 calls this before and after loading weights."""
        if self.decoder.bias.is_meta:
            self.decoder.bias = self.bias
        else:
            self.bias = self.decoder.bias


def _separate_biases(_head: nn.Module, state: dict[str, Tensor], prefix: str, _metadata: Any) -> None:
    """Save the bias under both of its names.

    Of tensors that share memory, one is saved. If embeddings are not tied, transformers 5 does not join the two names
    when it loads the checkpoint, and would miss `decoder.bias`.
    """
    name = f"{prefix}decoder.bias"
    if not isinstance(state[name], nn.Parameter):  # state_dict(keep_vars=True) gives the parameters themselves
        state[name] = state[name].clone()


def _selected(x_BTD: Tensor, positions: Tensor | None) -> Tensor:
    """Return the tokens at `positions`.

    None returns all tokens, integers select tokens of each text, and a mask selects tokens of all texts, as if they
    were one text.
    """
    if positions is None:
        return x_BTD
    if positions.dtype == torch.bool:
        return x_BTD[positions][None]
    return x_BTD.gather(1, positions[..., None].expand(-1, -1, x_BTD.shape[-1]))


def check_width(encoder_hidden_states: Tensor, width: int) -> None:
    """Raise ModelInputError, with both widths, unless the encoder's output is `width` wide."""
    if encoder_hidden_states.shape[-1] != width:
        raise ModelInputError(
            f"the encoder's hidden states are {encoder_hidden_states.shape[-1]} wide; expected {width}, as wide as "
            "those of the encoder that this decoder was trained with"
        )
