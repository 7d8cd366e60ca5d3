"""The encoder stage of an encoder-decoder: what one of its graphs computes once, before the decoder's steps."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from rpln_model.composition import composition_from_config


class EncoderStage(nn.Module):
    """A module that computes the keys and values of each decoder layer's cross-attention.

    It runs the encoder first, unless that is of another architecture. Names in its graph come from the attributes: the
    encoder's are those of an encoder's own graph, and the projections' are those that they have in the decoder.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.roberta_prelayernorm = model.encoder
        self.enc_to_dec_proj = model.enc_to_dec_proj
        self.decoder = model.decoder
        self.config = model.decoder.config
        self.encoder_hidden_size = composition_from_config(model.config).encoder_hidden_size

    @property
    def base_model(self) -> Any:
        """The encoder; None if it is of another architecture."""
        return self.roberta_prelayernorm

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
    ) -> Mapping[str, Any]:
        """Return `last_hidden_state`, of the encoder or as given, and the `cross_key_values` of it."""
        if encoder_hidden_states is None:
            encoder_hidden_states = self.roberta_prelayernorm(
                input_ids, attention_mask=attention_mask, return_dict=True
            ).last_hidden_state
        memory = encoder_hidden_states if self.enc_to_dec_proj is None else self.enc_to_dec_proj(encoder_hidden_states)
        return {
            "last_hidden_state": encoder_hidden_states,
            "cross_key_values": self.decoder.cross_key_values(memory),
        }
