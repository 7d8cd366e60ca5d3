"""What bounds the inputs of an export's graphs: sizes of axes and numbers of values, read off the configurations."""

from collections.abc import Sequence

from transformers import RobertaPreLayerNormConfig

from rpln_export.plan.graphs import GraphPlan
from rpln_graphs.stress import Limits
from rpln_model.composition import Composition
from rpln_model.config import padding_row, usable_length
from rpln_runtime.manifest import Axis
from rpln_runtime.tasks import (
    BATCH,
    BATCH_CHOICES,
    CHOICES,
    ENCODER_SEQUENCE,
    MASK_AXIS,
    MASKED_TOKENS,
    PAST,
    SEQUENCE,
    TOTAL,
)


def limits_from_config(config: RobertaPreLayerNormConfig, **sizes: int) -> Limits:
    """Return what bounds the inputs of the network of `config`; `sizes` are further sizes, which it does not hold."""
    return Limits(
        usable_length=usable_length(config),
        vocab_size=config.vocab_size,
        type_vocab_size=config.type_vocab_size,
        pad_token_id=padding_row(config),
        sizes={name: getattr(config, name) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
        | sizes,
    )


def memory_limits_from_composition(composition: Composition) -> Limits | None:
    """Return what bounds the inputs of the graph that runs once before a decoder's steps; None where there is none."""
    width = composition.encoder_hidden_size
    if width is None:
        return None
    return limits_from_config(composition.encoder or composition.decoder, encoder_hidden_size=width)


def axis_limits(composition: Composition, graphs: Sequence[GraphPlan]) -> dict[str, Axis]:
    """Return the sizes that each dynamic axis may have. Without a maximum, only memory bounds it."""
    usable = usable_length(composition.decoder)
    encoder = composition.encoder
    pasts = [graph.variant.shortest_past for graph in graphs if graph.variant.shortest_past is not None]
    return {
        BATCH: Axis(minimum=1, maximum=None),
        CHOICES: Axis(minimum=1, maximum=None),
        BATCH_CHOICES: Axis(minimum=1, maximum=None),
        SEQUENCE: Axis(minimum=1, maximum=usable),
        PAST: Axis(minimum=min(pasts, default=0), maximum=usable - 1),
        TOTAL: Axis(minimum=1, maximum=usable),
        MASK_AXIS: Axis(minimum=0, maximum=usable),
        MASKED_TOKENS: Axis(minimum=0, maximum=None),
        ENCODER_SEQUENCE: Axis(minimum=1, maximum=None if encoder is None else usable_length(encoder)),
    }


def value_limits(limits: Limits) -> dict[str, int]:
    """Return how many values each input of integers may take, by the input's name, in a network of these `limits`."""
    return {
        "input_ids": limits.vocab_size,
        "attention_mask": 2,
        "encoder_attention_mask": 2,
        "token_type_ids": limits.type_vocab_size,
        "masked_positions": limits.usable_length,
        # RoBERTa counts positions from pad_token_id + 1, so its table has that many rows more than usable positions.
        "position_ids": limits.usable_length + limits.pad_token_id + 1,
    }
