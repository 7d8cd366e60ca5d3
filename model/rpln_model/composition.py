"""Tells which networks a checkpoint holds: a single one, or the encoder and the decoder of an EncoderDecoderModel."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from transformers import EncoderDecoderConfig, PretrainedConfig, RobertaPreLayerNormConfig

from rpln_model.checkpoints import read_config
from rpln_model.config import MODEL_TYPE
from rpln_model.errors import ConfigError
from rpln_model.weights import local_folder

PLAIN: Final = "plain"
"""The kind of a checkpoint with one network."""
ENCODER_DECODER: Final = "encoder-decoder"
"""The kind of a checkpoint with an encoder and a decoder, both of this architecture."""
FOREIGN_ENCODER: Final = "foreign-encoder"
"""The kind of a checkpoint with a decoder of this architecture and an encoder of another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """The networks of a checkpoint, by their configurations.

    Attributes:
        config: the configuration of the whole checkpoint, as `from_pretrained` takes it.
        decoder: the configuration of the decoder, or of the only network.
        encoder: the configuration of the encoder; None if there is no encoder, or one of another architecture.
        encoder_type: the model type of the encoder; None if there is no encoder.
        encoder_hidden_size: the width of the encoder's output; None without cross-attention.
        projected: whether a linear layer brings the encoder's output to the width of the decoder.
        start_token_id: the token that the decoder begins with; None if the configuration does not name one.
        pad_token_id: the token that pads the decoder's input.
    """

    config: RobertaPreLayerNormConfig | EncoderDecoderConfig
    decoder: RobertaPreLayerNormConfig
    encoder: RobertaPreLayerNormConfig | None = None
    encoder_type: str | None = None
    encoder_hidden_size: int | None = None
    projected: bool = False
    start_token_id: int | None
    pad_token_id: int | None

    @property
    def kind(self) -> str:
        """PLAIN for a single network, ENCODER_DECODER, or FOREIGN_ENCODER if the encoder has another architecture."""
        if self.encoder_type is None:
            return PLAIN
        return FOREIGN_ENCODER if self.encoder is None else ENCODER_DECODER


def load_composition(source: str | Path, *, revision: str | None = None) -> Composition:
    """Return which networks the checkpoint in a folder or on the hub holds, according to its config.json.

    Raises CheckpointError if config.json is missing, broken or of another architecture, and ConfigError if the decoder
    has another architecture or does not fit the encoder.
    """
    config = read_config(local_folder(source, revision=revision), RobertaPreLayerNormConfig, EncoderDecoderConfig)
    config.name_or_path = str(source)
    return composition_from_config(config)


def composition_from_config(config: PretrainedConfig) -> Composition:
    """Return which networks a configuration describes.

    Raises ConfigError if the decoder has another architecture or does not fit the encoder.
    """
    if isinstance(config, RobertaPreLayerNormConfig):
        return Composition(
            config=config,
            decoder=config,
            encoder_hidden_size=config.hidden_size if config.add_cross_attention else None,
            start_token_id=getattr(config, "decoder_start_token_id", None),
            pad_token_id=config.pad_token_id,
        )
    if not isinstance(config, EncoderDecoderConfig):
        raise ConfigError(
            f"this config is of model_type {config.model_type!r}; expected {MODEL_TYPE!r} or "
            f"{EncoderDecoderConfig.model_type!r}"
        )
    encoder: Any = config.encoder
    decoder: Any = config.decoder
    _check_decoder(decoder)
    _check_widths(encoder, decoder)
    return Composition(
        config=config,
        decoder=decoder,
        encoder=encoder if encoder.model_type == MODEL_TYPE else None,
        encoder_type=encoder.model_type,
        encoder_hidden_size=encoder.hidden_size,
        projected=encoder.hidden_size != decoder.hidden_size,
        start_token_id=_first(config.decoder_start_token_id, getattr(decoder, "decoder_start_token_id", None)),
        pad_token_id=_first(config.pad_token_id, decoder.pad_token_id),
    )


def _first(stated: int | None, fallback: int | None) -> int | None:
    return fallback if stated is None else stated


def _check_decoder(decoder: PretrainedConfig) -> None:
    """Raise ConfigError unless the decoder is of this architecture, is a decoder, and reads an encoder."""
    if decoder.model_type != MODEL_TYPE:
        raise ConfigError(
            f"the decoder of this encoder-decoder is of model_type {decoder.model_type!r}; expected {MODEL_TYPE!r}: "
            "an encoder may be of any architecture, a decoder of this one only"
        )
    for field in ("is_decoder", "add_cross_attention"):
        if not getattr(decoder, field):
            raise ConfigError(
                f"the decoder of this encoder-decoder has {field}={getattr(decoder, field)}; expected True: it has to "
                f"read its encoder's output. Set {field} under 'decoder' in config.json if it was trained as a decoder."
            )


def _check_widths(encoder: PretrainedConfig, decoder: PretrainedConfig) -> None:
    """Raise ConfigError if the encoder has no known width, or the decoder expects another one.

    A decoder without `cross_attention_hidden_size` takes every width, because a linear layer projects the encoder's
    output.
    """
    width = getattr(encoder, "hidden_size", None)
    if not isinstance(width, int):
        raise ConfigError(
            f"the encoder's configuration, of model_type {encoder.model_type!r}, says hidden_size={width!r}; expected "
            "the width of the hidden states that the decoder attends to"
        )
    stated = getattr(decoder, "cross_attention_hidden_size", None)
    if stated is not None and not stated == width == decoder.hidden_size:
        raise ConfigError(
            f"the decoder's cross_attention_hidden_size is {stated}, its hidden_size {decoder.hidden_size} and the "
            f"encoder's hidden_size {width}; expected all equal: cross-attention of {MODEL_TYPE} reads its own width. "
            "Remove cross_attention_hidden_size if the checkpoint has an enc_to_dec_proj."
        )
