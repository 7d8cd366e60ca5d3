# ruff: noqa: FBT001, FBT002, PLR0917 - the documented interface fixes these arguments' order and types
"""An encoder-decoder as in transformers' EncoderDecoderModel, whose decoder is of this architecture.

`rpln_model.layers` explains the suffixes of tensor names.
"""

import os
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import EncoderDecoderConfig, RobertaPreLayerNormConfig
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.models.encoder_decoder.modeling_encoder_decoder import shift_tokens_right

from rpln_model.base import BASE_MODEL_PREFIX
from rpln_model.cache import KeyValue, Past
from rpln_model.checkpoints import LoadingInfo, read_config
from rpln_model.composition import composition_from_config
from rpln_model.config import returns_dict
from rpln_model.encoder import RobertaPreLayerNormModel
from rpln_model.errors import CheckpointError, ConfigError, ModelInputError
from rpln_model.generation import RobertaGenerationMixin
from rpln_model.language_models import RobertaPreLayerNormForCausalLM, check_width
from rpln_model.losses import token_loss
from rpln_model.network import Location, Network, folder_to_check


class EncoderDecoderModel(Network, RobertaGenerationMixin):
    """An encoder and a decoder, whose cross-attention reads the encoder's output.

    The parts have the names that they have in transformers: `encoder`, `decoder` and, if the two have different widths,
    `enc_to_dec_proj`, which projects the encoder's output to the width of the decoder.

    `encoder` is None if the encoder is of another architecture, or if the checkpoint is that of a decoder with
    cross-attention alone. Then `forward` needs `encoder_outputs`. To resize a vocabulary or to prune heads, call the
    methods of the parts; the configuration of a part belongs to that of the whole.
    """

    config: Any
    config_class = EncoderDecoderConfig
    config_types = (RobertaPreLayerNormConfig, EncoderDecoderConfig)
    base_model_prefix = "encoder_decoder"

    def __init__(self, config: EncoderDecoderConfig | RobertaPreLayerNormConfig) -> None:
        parts = composition_from_config(config)
        if parts.encoder_hidden_size is None:
            raise ConfigError(
                "this decoder has no cross-attention, so it cannot be part of an encoder-decoder; set is_decoder=True "
                "and add_cross_attention=True if it was trained with them, or load it as RobertaPreLayerNormForCausalLM"
            )
        super().__init__(config)
        self.encoder = None if parts.encoder is None else RobertaPreLayerNormModel(parts.encoder)
        self.decoder = RobertaPreLayerNormForCausalLM(parts.decoder)
        self.enc_to_dec_proj = (
            nn.Linear(parts.encoder_hidden_size, parts.decoder.hidden_size) if parts.projected else None
        )
        # Ties inside the decoder are the decoder's own. `tie_encoder_decoder` is a field of transformers 4.
        self._tied_weights_keys = self._encoder_ties() if getattr(config, "tie_encoder_decoder", False) else {}
        if self.encoder is None:
            self._keys_to_ignore_on_load_unexpected = [*self._keys_to_ignore_on_load_unexpected, r"^encoder\."]
        self.post_init()

    @classmethod
    def load_with_info(cls, source: Location, *args: Any, **options: Any) -> tuple[Self, LoadingInfo]:
        """Do what `from_pretrained` does, and always return the loading info, too.

        The checkpoint of a single decoder is loaded as the decoder of this model.
        """
        config = options.get("config")
        if config is None and (folder := folder_to_check(source, options)) is not None:
            config = read_config(folder, *cls.config_types)
        if not isinstance(config, RobertaPreLayerNormConfig):
            return super().load_with_info(source, *args, **options)
        decoder, info = RobertaPreLayerNormForCausalLM.load_with_info(source, *args, **options | {"config": config})
        with torch.device("meta"):
            model = cls(decoder.config)
        model.decoder = decoder
        return model.eval(), {kind: [_in_decoder(each) for each in found] for kind, found in info.items()}

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple[Any, ...] | None = None,
        past_key_values: Past | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        decoder_token_type_ids: Tensor | None = None,
        decoder_position_ids: Tensor | None = None,
    ) -> tuple[Any, ...] | Seq2SeqLMOutput:
        """Return the decoder's `logits` (batch, sequence, vocabulary) and, if `labels` are given, the `loss`.

        The inputs are those of `RobertaPreLayerNormModel`; the names of the decoder's begin with `decoder_`. Further
        ones:
            encoder_outputs: the output of the encoder, or a tuple that begins with `last_hidden_state`. The encoder is
                not run then.
            labels: int64 (batch, sequence); -100 is ignored. Without `decoder_input_ids` the decoder reads the labels
                shifted by one token, with `decoder_start_token_id` in front.

        Raises ModelInputError for arguments that contradict each other, for a missing input of the encoder or the
        decoder, and for an encoder output of another width.
        """
        encoded: Any = BaseModelOutput(*encoder_outputs) if isinstance(encoder_outputs, tuple) else encoder_outputs
        if encoded is None:
            encoded = self._own_encoder()(
                input_ids,
                attention_mask=attention_mask,
                token_type_ids=token_type_ids,
                position_ids=position_ids,
                inputs_embeds=inputs_embeds,
                output_attentions=output_attentions,
                output_hidden_states=output_hidden_states,
                return_dict=True,
            )
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids, mask = self._inputs_from_labels(labels)
            decoder_attention_mask = mask if decoder_attention_mask is None else decoder_attention_mask
        outputs = self.decoder(
            decoder_input_ids,
            attention_mask=decoder_attention_mask,
            token_type_ids=decoder_token_type_ids,
            position_ids=decoder_position_ids,
            inputs_embeds=decoder_inputs_embeds,
            encoder_hidden_states=self._projected(encoded.last_hidden_state),
            encoder_attention_mask=attention_mask,
            past_key_values=past_key_values,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        output = Seq2SeqLMOutput(
            loss=None if labels is None else token_loss(outputs.logits, labels),
            logits=outputs.logits,
            past_key_values=outputs.past_key_values,
            decoder_hidden_states=outputs.hidden_states,
            decoder_attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=encoded.last_hidden_state,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
        )
        return output if returns_dict(self.config, asked=return_dict) else output.to_tuple()

    def encode(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the encoder's last hidden state before any projection.

        Its shape is (batch, encoder_sequence, encoder's hidden size). Raises ModelInputError if the encoder is not part
        of this model.
        """
        encoded_BSD: Tensor = self._own_encoder()(input_ids, attention_mask, return_dict=True).last_hidden_state
        return encoded_BSD

    def cross_key_values(self, encoder_hidden_states: Tensor) -> list[KeyValue]:
        """Return the keys and values that each layer of the decoder reads of the encoder's output, in every step.

        Args:
            encoder_hidden_states: (batch, encoder_sequence, encoder's hidden size), of any encoder.

        Returns a key and a value for each layer, each (batch, heads, encoder_sequence, head size). Raises
        ModelInputError if the hidden states have another width.
        """
        return self.decoder.cross_key_values(self._projected(encoder_hidden_states))

    def _own_encoder(self) -> RobertaPreLayerNormModel:
        if self.encoder is None:
            raise ModelInputError(
                f"{self._where_the_encoder_is()}; run it where it is, and give its output as encoder_outputs"
            )
        return self.encoder

    def _where_the_encoder_is(self) -> str:
        encoder_type = composition_from_config(self.config).encoder_type
        if encoder_type is None:
            return "this is a decoder's checkpoint, without an encoder"
        return f"this model's encoder is of type {encoder_type!r}, which is not part of it"

    def _projected(self, encoder_hidden_states: Tensor) -> Tensor:
        if self.enc_to_dec_proj is None:
            check_width(encoder_hidden_states, self.decoder.config.hidden_size)
            return encoder_hidden_states
        check_width(encoder_hidden_states, self.enc_to_dec_proj.in_features)
        projected_BSD: Tensor = self.enc_to_dec_proj(encoder_hidden_states)
        return projected_BSD

    def _inputs_from_labels(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the decoder's inputs for training on `labels`, and their attention mask.

        The inputs are the labels shifted by one token, with padding in the place of ignored labels.
        """
        parts = composition_from_config(self.config)
        if parts.start_token_id is None or parts.pad_token_id is None:
            raise ModelInputError(
                f"labels were given without decoder_input_ids, and the config's decoder_start_token_id is "
                f"{parts.start_token_id}, its pad_token_id {parts.pad_token_id}; set both, or give decoder_input_ids"
            )
        ids = shift_tokens_right(labels, parts.pad_token_id, parts.start_token_id)
        return ids, ids.ne(parts.pad_token_id).long()

    # -- embeddings, ties and saving of both parts --------------------------------------------------------------------

    def get_input_embeddings(self) -> nn.Module:
        """Return the encoder's table of word embeddings, or the decoder's if the encoder is not part of the model."""
        return (self.decoder if self.encoder is None else self.encoder).get_input_embeddings()

    def get_encoder(self, modality: str | None = None) -> nn.Module:  # noqa: ARG002 - the library's argument
        """Return the encoder, which `generate` runs once."""
        return self._own_encoder()

    def resize_token_embeddings(self, *_arguments: Any, **_options: Any) -> nn.Embedding:
        """Raise ModelInputError: the encoder and the decoder have a vocabulary each, and are resized one by one."""
        raise ModelInputError(
            "the encoder and the decoder have a vocabulary each; resize one of them: "
            "model.encoder.resize_token_embeddings(...) or model.decoder.resize_token_embeddings(...)"
        )

    def _encoder_ties(self) -> dict[str, str]:
        """Return, for each parameter of the encoder that the decoder has, too, its name in the decoder."""
        if self.encoder is None:
            return {}
        of_decoder = {name for name, _ in self.decoder.base_model.named_parameters()}
        names = [name for name, _ in self.encoder.named_parameters() if name in of_decoder]
        return {f"encoder.{name}": f"decoder.{BASE_MODEL_PREFIX}.{name}" for name in names}

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Return, for the name of each tied weight, the name of the one it is tied to. transformers 5 asks for this."""
        ties: dict[str, str] = super().get_expanded_tied_weights_keys(all_submodels=all_submodels)
        return ties | self._tied_weights_keys

    def tie_embeddings_and_encoder_decoder(self) -> None:
        """Tie the encoder to the decoder if the config says so.

        transformers 4.57 calls this method on every model.
        """
        for alias, name in self._tied_weights_keys.items():
            path, _, last = alias.rpartition(".")
            setattr(self.get_submodule(path), last, self.get_parameter(name))

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> None:  # type: ignore[override]
        """Write both networks to a folder, with the options of transformers' method.

        Raises CheckpointError if the encoder is not part of this model, if the folder cannot be written, or if the
        config holds a function.
        """
        if self.encoder is None:
            raise CheckpointError(
                f"{self._where_the_encoder_is()}, and a save would lack it; save the decoder by itself: "
                "model.decoder.save_pretrained(folder)"
            )
        super().save_pretrained(save_directory, **options)


def _in_decoder(entry: Any) -> Any:
    """Return an entry of the decoder's loading info with the name of the weight in the whole model."""
    return f"decoder.{entry}" if isinstance(entry, str) else (f"decoder.{entry[0]}", *entry[1:])
