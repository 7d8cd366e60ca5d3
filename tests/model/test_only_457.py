"""Features that only transformers 4.57 has. conftest.py collects this file only where it is installed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rpln_model import EncoderDecoderModel
from tests.model.encoder_decoders import decoder_config, joined_config, reference_of
from tests.model.references import (
    HEAD_COUNT,
    HIDDEN,
    LENGTH,
    OUTPUT_TOLERANCE,
    assert_equal_outputs,
    counterpart,
    difference,
    pair,
    random_ids,
    random_values,
    reference_model,
    tiny_config,
)

CAUSAL = "RobertaPreLayerNormForCausalLM"
TAGGER = "RobertaPreLayerNormForTokenClassification"
RELATIVE = ("relative_key", "relative_key_query")
INTERNALS = {"output_attentions": True, "output_hidden_states": True}


def run(model: Any, **inputs: Any) -> Any:
    with torch.no_grad():
        return model(**inputs)


@pytest.mark.parametrize("positions", RELATIVE)
def test_relative_positions_of_decoders(positions: str) -> None:
    reference, ours = pair(
        CAUSAL, position_embedding_type=positions, is_decoder=True, add_cross_attention=True, use_cache=False
    )
    inputs = {"input_ids": random_ids(3, LENGTH), "encoder_hidden_states": random_values(3, 5, HIDDEN), **INTERNALS}
    assert_equal_outputs(run(ours, **inputs), run(reference, **inputs), final_norm=ours.base_model.LayerNorm)


def logits_step_by_step(model: Any, ids: Tensor) -> Tensor:
    past, logits = None, []
    for column in torch.split(ids, 1, dim=1):
        outputs = run(model, input_ids=column, past_key_values=past, use_cache=True)
        past = outputs.past_key_values
        logits.append(outputs.logits)
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("positions", RELATIVE)
def test_relative_distances_under_a_cache_are_those_without(positions: str) -> None:
    """With a cache, even an empty one, transformers 4.57 measures all distances from the last token.

    That is right for a single new token. This package measures them from each token, and agrees with 4.57 where that is
    right.
    """
    reference, ours = pair(CAUSAL, position_embedding_type=positions, is_decoder=True)
    ids = random_ids(2, LENGTH)
    expected = run(reference, input_ids=ids, use_cache=False).logits
    assert difference(logits_step_by_step(reference, ids), expected) <= OUTPUT_TOLERANCE
    assert difference(run(reference, input_ids=ids, use_cache=True).logits, expected) > 0.01
    assert difference(logits_step_by_step(ours, ids), expected) <= OUTPUT_TOLERANCE
    assert difference(run(ours, input_ids=ids, use_cache=True).logits, expected) <= OUTPUT_TOLERANCE


def test_pruned_heads() -> None:
    reference, ours = pair(TAGGER)
    inputs = {"input_ids": random_ids(3, LENGTH), **INTERNALS}
    for heads in ({0: [1, 3]}, {0: [0], 1: [2]}):
        for model in (reference, ours):
            model.prune_heads(heads)
        assert_equal_outputs(run(ours, **inputs), run(reference, **inputs), final_norm=ours.base_model.LayerNorm)
    assert {layer: sorted(heads) for layer, heads in reference.config.pruned_heads.items()} == {0: [0, 1, 3], 1: [2]}
    assert ours.config.pruned_heads == {0: [0, 1, 3], 1: [2]}


def test_pruned_checkpoints_load_both_ways(tmp_path: Any) -> None:
    reference, ours = pair(TAGGER)
    ids = random_ids(3, LENGTH)
    for model, other in ((reference, type(ours)), (ours, type(reference))):
        model.prune_heads({1: [0, 2]})
        model.save_pretrained(tmp_path)
        loaded = other.from_pretrained(tmp_path)
        assert loaded.base_model.encoder.layer[1].attention.self.query.weight.shape == (HIDDEN // 2, HIDDEN)
        assert difference(run(loaded, input_ids=ids).logits, run(model, input_ids=ids).logits) <= OUTPUT_TOLERANCE


def test_a_config_with_pruned_heads_builds_a_pruned_model() -> None:
    reference = reference_model(TAGGER, tiny_config(pruned_heads={0: [3], 1: [0, 1]}))
    ours = counterpart(reference)
    inputs = {"input_ids": random_ids(3, LENGTH), **INTERNALS}
    assert_equal_outputs(run(ours, **inputs), run(reference, **inputs), final_norm=ours.base_model.LayerNorm)
    assert len(ours.base_model.encoder.layer[1].attention.heads) == HEAD_COUNT - 2


def test_an_encoder_tied_to_its_decoder(tmp_path: Path) -> None:
    """transformers 5 dropped `tie_encoder_decoder`, and takes such a checkpoint for one without its encoder."""
    reference = reference_of(joined_config(decoder_config(is_decoder=False, add_cross_attention=False), tied=True))
    reference.save_pretrained(tmp_path / "theirs")
    ours, info = EncoderDecoderModel.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert not any(info.values())
    inputs = {"input_ids": random_ids(3, LENGTH, high=40), "decoder_input_ids": random_ids(3, 4, high=40)}
    assert difference(run(ours, **inputs).logits, run(reference, **inputs).logits) <= OUTPUT_TOLERANCE
    assert ours.num_parameters() == reference.num_parameters()

    ours.save_pretrained(tmp_path / "ours")
    assert (
        load_file(tmp_path / "ours/model.safetensors").keys() == load_file(tmp_path / "theirs/model.safetensors").keys()
    )
    again = type(reference).from_pretrained(tmp_path / "ours")
    assert difference(run(again, **inputs).logits, run(ours, **inputs).logits) <= OUTPUT_TOLERANCE
