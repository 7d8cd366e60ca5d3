from collections.abc import Sequence
from typing import cast

import pytest
import torch
from transformers import EncoderDecoderConfig, RobertaPreLayerNormConfig

from rpln_model import EncoderDecoderModel, RobertaPreLayerNormForTokenClassification, RobertaPreLayerNormModel
from rpln_model.layers import Layer
from training.local_attention import (
    carry_what_is_looked_at,
    point_cross_attention_at_places,
    point_first_layer_at_neighbours,
    point_heads_at_same_tokens,
)

_OFFSETS = (-1, 1, -2, 2)


def _config(*, decoder: bool = False) -> RobertaPreLayerNormConfig:
    return RobertaPreLayerNormConfig(
        vocab_size=50, hidden_size=128, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32,
        max_position_embeddings=202, type_vocab_size=1,
        is_decoder=decoder, add_cross_attention=decoder,
    )  # fmt: skip


@pytest.mark.parametrize(("head", "offset"), [*enumerate(_OFFSETS)])
def test_a_head_of_the_first_layer_looks_at_one_neighbour(head: int, offset: int) -> None:
    torch.manual_seed(0)
    model = RobertaPreLayerNormForTokenClassification(_config()).eval()
    point_first_layer_at_neighbours(model.roberta_prelayernorm, offsets=_OFFSETS)
    with torch.inference_mode():
        (attention,) = model(torch.randint(3, 50, (2, 200)), output_attentions=True).attentions
    assert attention[:, head].diagonal(offset, dim1=-2, dim2=-1).mean() > 0.6


@pytest.mark.parametrize(("head", "offset"), [*enumerate(_OFFSETS)])
def test_a_head_of_the_cross_attention_looks_at_one_place_of_the_source(head: int, offset: int) -> None:
    torch.manual_seed(0)
    config = EncoderDecoderConfig(encoder=_config().to_dict(), decoder=_config(decoder=True).to_dict())
    model = EncoderDecoderModel(config).eval()
    assert model.encoder is not None
    encoder, decoder = model.encoder, model.decoder.roberta_prelayernorm
    point_first_layer_at_neighbours(encoder, offsets=_OFFSETS)
    with torch.no_grad():
        decoder.embeddings.position_embeddings.weight.copy_(encoder.embeddings.position_embeddings.weight)
    (layer,) = cast(Sequence[Layer], decoder.encoder.layer)
    point_cross_attention_at_places(layer, offsets=_OFFSETS)
    source, target = torch.randint(3, 50, (2, 2, 150))
    with torch.inference_mode():
        (attention,) = model(source, decoder_input_ids=target, output_attentions=True).cross_attentions
    assert attention[:, head].diagonal(offset, dim1=-2, dim2=-1).mean() > 0.4


def test_heads_look_at_the_same_token_elsewhere_and_the_others_do_not() -> None:
    torch.manual_seed(0)
    model = RobertaPreLayerNormModel(_config(), add_pooling_layer=False).eval()
    (layer,) = cast(Sequence[Layer], model.encoder.layer)
    point_heads_at_same_tokens(layer, heads=[0, 2])
    torch.nn.init.zeros_(model.embeddings.position_embeddings.weight)
    tokens = torch.arange(5, 45)
    with torch.inference_mode():
        (attention,) = model(torch.cat([tokens, tokens])[None], output_attentions=True).attentions
    elsewhere = attention[0].diagonal(len(tokens), dim1=-2, dim2=-1).mean(dim=-1)
    assert (elsewhere[[0, 2]] > 0.2).all()
    assert (elsewhere[[1, 3]] < 0.05).all()


def test_what_is_looked_at_is_carried_without_loss() -> None:
    torch.manual_seed(0)
    model = RobertaPreLayerNormModel(_config(), add_pooling_layer=False)
    (layer,) = cast(Sequence[Layer], model.encoder.layer)
    carry_what_is_looked_at(layer)
    vectors = torch.randn(5, 128)
    carried = vectors @ layer.attention.self.value.weight.T @ layer.attention.output.dense.weight.T
    torch.testing.assert_close(carried @ carried.T, vectors @ vectors.T, atol=1e-3, rtol=1e-4)
    assert not torch.allclose(carried, vectors, atol=0.1)
