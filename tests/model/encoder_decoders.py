"""Tiny encoder-decoders of transformers with telling weights, and the models of this package with the same weights."""

import copy
from typing import Any

import transformers
from transformers import BertConfig, EncoderDecoderConfig, RobertaPreLayerNormConfig

from rpln_model import EncoderDecoderModel
from tests.model.references import HEAD_COUNT, PAD, VOCABULARY, shake, tiny_config

START = 0
DECODER_VOCABULARY, WIDE = 41, 32


def decoder_config(**fields: Any) -> RobertaPreLayerNormConfig:
    return tiny_config(**({"is_decoder": True, "add_cross_attention": True, "vocab_size": DECODER_VOCABULARY} | fields))


def joined_config(encoder: Any = None, *, tied: bool = False, **decoder_fields: Any) -> EncoderDecoderConfig:
    """Return the config of an encoder, by default of this architecture, and a decoder of this architecture.

    With `tied`, both share their weights, which only transformers 4.57 supports.
    """
    decoder = decoder_config(**decoder_fields)
    config: Any = EncoderDecoderConfig.from_encoder_decoder_configs(
        tiny_config() if encoder is None else encoder, decoder, decoder_start_token_id=START, pad_token_id=PAD
    )
    if tied:
        config.tie_encoder_decoder = True
    for part in (config, config.encoder, config.decoder):
        part._attn_implementation = "eager"
    joined: EncoderDecoderConfig = config
    return joined


def bert_config(*, hidden_size: int = WIDE) -> BertConfig:
    return BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden_size,
        num_hidden_layers=1,
        num_attention_heads=HEAD_COUNT,
        intermediate_size=8,
    )


def reference_of(config: EncoderDecoderConfig, *, seed: int = 0) -> Any:
    """Return transformers' own model in eval mode."""
    model: Any = transformers.EncoderDecoderModel(copy.deepcopy(config))
    shake(model, seed=seed)
    return model.eval()


def pair(encoder: Any = None, **decoder_fields: Any) -> tuple[Any, EncoderDecoderModel]:
    """Return transformers' model, and this package's with its weights, after a check that all names agree."""
    reference = reference_of(joined_config(encoder, **decoder_fields))
    ours = EncoderDecoderModel(copy.deepcopy(reference.config))
    ours.load_state_dict(reference.state_dict(), strict=True)
    return reference, ours.eval()
