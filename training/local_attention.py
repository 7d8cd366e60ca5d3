"""Attention whose heads look at the neighbouring tokens before training begins.

Neighbours decide the part of speech of a word. From random weights the tagger learns only each word's commonest tag for
about 500 steps, longer on long passages, until its attention finds the neighbours; from here it uses them at once.

With positions embedded as p_j = (sin a_fj, cos a_fj), where a_fj = w_f j + phase_f, for F frequencies w_f, and a query
turned by the offset o,

    q_i . k_j = sum_f  sin a_f(i+o) sin a_fj + cos a_f(i+o) cos a_fj = sum_f cos w_f (i + o - j),

which for frequencies spread over 0..pi is F at j = i + o and small elsewhere. The phases are random, so that the sines
or the cosines of no position all agree: LayerNorm would subtract their mean.
"""

import math
from collections.abc import Sequence
from typing import Final, cast

import torch
from torch import Tensor

from rpln_model import RobertaPreLayerNormModel
from rpln_model.layers import Attention, Layer

_POSITION_SCALE: Final = 0.06  # three times the deviation of the word embeddings: both last through training
_SAME_TOKEN_SCALE: Final = 1.3  # of queries and of keys; others then get little of a head's attention
_SCORE_SCALE: Final = 1.5  # of queries and of keys; the neighbour then gets most of a head's attention


@torch.no_grad()
def point_first_layer_at_neighbours(network: RobertaPreLayerNormModel, *, offsets: Sequence[int]) -> None:
    """Set the position embeddings, and let head h of the first layer look at the token `offsets[h]` places away."""
    config = network.config
    frequencies = _frequencies(config.hidden_size)
    positions = network.embeddings.position_embeddings
    phases = 2 * math.pi * torch.rand(len(frequencies))
    angles = torch.arange(config.max_position_embeddings)[:, None] * frequencies + phases
    positions.weight.copy_(_POSITION_SCALE * _interleaved(angles.sin(), angles.cos()))
    positions.weight[config.pad_token_id] = 0
    _point(cast(Layer, network.encoder.layer[0]).attention, offsets=offsets)


@torch.no_grad()
def point_cross_attention_at_places(layer: Layer, *, offsets: Sequence[int]) -> None:
    """Let head h of a decoder's cross-attention look at the source's token `offsets[h]` places from its own place.

    Encoder and decoder need the same position embeddings, made by `point_first_layer_at_neighbours`.
    """
    _point(layer.crossattention, offsets=offsets)


@torch.no_grad()
def carry_what_is_looked_at(layer: Layer) -> None:
    """Make the value and output projections of a layer rotations: a token that a head looks at then counts in full.

    From small random weights a network has to learn that first. A masked language model takes a long time for it,
    because it learns from few of its tokens.
    """
    for projection in (layer.attention.self.value, layer.attention.output.dense):
        projection.weight.copy_(torch.linalg.qr(torch.randn_like(projection.weight)).Q)


@torch.no_grad()
def point_heads_at_same_tokens(layer: Layer, *, heads: Sequence[int]) -> None:
    """Let these heads of a layer look at equal tokens, by giving queries and keys the same projection."""
    attention = layer.attention.self
    for head in heads:
        rows = slice(head * attention.head_size, (head + 1) * attention.head_size)
        projection = torch.linalg.qr(torch.randn(attention.query.in_features, attention.head_size)).Q.T
        attention.query.weight[rows] = _SAME_TOKEN_SCALE * projection
        attention.key.weight[rows] = _SAME_TOKEN_SCALE * projection


def _point(attention: Attention, *, offsets: Sequence[int]) -> None:
    heads = attention.self
    frequencies = _frequencies(heads.query.in_features)
    columns = torch.randperm(len(frequencies)).chunk(len(offsets))  # random: an even grid has echoes
    pairs_a_head = heads.head_size // 2
    for head, offset in enumerate(offsets):
        for pair, f in enumerate(columns[head].tolist()):
            rows = slice(2 * (head * pairs_a_head + pair), 2 * (head * pairs_a_head + pair) + 2)
            sin, cos = math.sin(frequencies[f] * offset), math.cos(frequencies[f] * offset)
            heads.key.weight[rows, 2 * f : 2 * f + 2] += _SCORE_SCALE * torch.eye(2)
            heads.query.weight[rows, 2 * f : 2 * f + 2] += _SCORE_SCALE * torch.tensor([[cos, sin], [-sin, cos]])


def _frequencies(hidden_size: int) -> Tensor:
    pairs = hidden_size // 2
    return math.pi * (torch.arange(pairs) + 0.5) / pairs


def _interleaved(even: Tensor, odd: Tensor) -> Tensor:
    return torch.stack([even, odd], dim=-1).flatten(-2)
