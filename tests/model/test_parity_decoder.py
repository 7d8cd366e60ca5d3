"""Decoders give what transformers gives: causality, cross-attention, and every kind of cache."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from tests.model import lines
from tests.model.references import (
    HIDDEN,
    LAYERS,
    LENGTH,
    MASKS,
    OUTPUT_TOLERANCE,
    PAD,
    VOCABULARY,
    Inputs,
    assert_equal_gradients,
    assert_equal_outputs,
    cached,
    difference,
    own_model,
    padding_mask,
    pair,
    random_ids,
    random_values,
)

CAUSAL = "RobertaPreLayerNormForCausalLM"
BASE = "RobertaPreLayerNormModel"
MEMORY = 5
INTERNALS = {"output_attentions": True, "output_hidden_states": True}


def run(model: Any, inputs: Inputs) -> Any:
    with torch.no_grad():
        return model(**inputs)


def memory_mask(kind: str) -> Inputs:
    padding = torch.ones(3, MEMORY, dtype=torch.long)
    padding[0, 2:] = 0
    by_query = padding[:, None].repeat(1, LENGTH, 1)
    by_query[1, 3, :2] = 0
    masks = {"padding": padding, "queries_by_keys": by_query}
    return {} if kind == "none" else {"encoder_attention_mask": masks[kind]}


@pytest.mark.parametrize("use_cache", [False, True])
@pytest.mark.parametrize("cross_mask", lines.CROSS_MASKS)
@pytest.mark.parametrize("architecture", [BASE, CAUSAL])
def test_cross_attention(*, architecture: str, cross_mask: str, use_cache: bool) -> None:
    reference, ours = pair(architecture, is_decoder=True, add_cross_attention=True)
    for mask in ("none", *MASKS):
        inputs: Inputs = {"input_ids": random_ids(3, LENGTH), **INTERNALS, "use_cache": use_cache}
        inputs |= {"encoder_hidden_states": random_values(3, MEMORY, HIDDEN), **memory_mask(cross_mask)}
        if mask != "none":
            inputs["attention_mask"] = padding_mask(mask, (3, LENGTH))
            inputs["input_ids"][inputs["attention_mask"] == 0] = PAD
        assert_equal_outputs(run(ours, inputs), run(reference, inputs), final_norm=ours.base_model.LayerNorm)


def test_cross_attention_is_left_out_without_a_memory() -> None:
    # transformers 4.57 fails here if attentions are asked for, so they are not.
    reference, ours = pair(CAUSAL, is_decoder=True, add_cross_attention=True)
    inputs = {"input_ids": random_ids(3, LENGTH)}
    assert difference(run(ours, inputs).logits, run(reference, inputs).logits) <= OUTPUT_TOLERANCE
    assert run(ours, inputs | INTERNALS).cross_attentions is None


def test_an_encoder_does_not_look_at_encoder_hidden_states() -> None:
    reference, ours = pair(BASE)
    inputs = {"input_ids": random_ids(3, LENGTH), "encoder_hidden_states": random_values(3, MEMORY, HIDDEN)}
    expected = run(reference, inputs)
    assert_equal_outputs(run(ours, inputs), expected, final_norm=ours.base_model.LayerNorm)
    unread = inputs | {"encoder_attention_mask": torch.ones(1)}
    assert_equal_outputs(run(ours, unread), expected, final_norm=ours.base_model.LayerNorm)


def test_gradients_reach_through_cross_attention() -> None:
    reference, ours = pair(CAUSAL, is_decoder=True, add_cross_attention=True)
    memories = []
    for model in (reference, ours):
        memory = random_values(3, MEMORY, HIDDEN).requires_grad_()
        model(random_ids(3, LENGTH), encoder_hidden_states=memory, labels=random_ids(3, LENGTH)).loss.backward()
        memories.append(memory)
    assert_equal_gradients(ours, reference)
    assert difference(memories[1].grad, memories[0].grad) <= 1e-4  # type: ignore[arg-type]  # backward has set it


def reference_of_last(reference: Any, count: int, **inputs: Any) -> tuple[Tensor, Tensor]:
    """Return loss and logits of the last tokens. transformers 4.57 has no option for it, so its logits are cut here."""
    if not lines.TRANSFORMERS_4:
        outputs = run(reference, inputs | {"logits_to_keep": count})
        return outputs.loss, outputs.logits
    logits = run(reference, {"input_ids": inputs["input_ids"]}).logits[:, -count:].contiguous()
    return reference.loss_function(logits, inputs["labels"], vocab_size=VOCABULARY), logits


@pytest.mark.parametrize("count", [0, 2, LENGTH, LENGTH + 3])
def test_logits_of_the_last_tokens(count: int) -> None:
    reference, ours = pair(CAUSAL, is_decoder=True)
    inputs = {"input_ids": random_ids(3, LENGTH), "labels": random_ids(3, min(count, LENGTH) or LENGTH, seed=5)}
    outputs = run(ours, inputs | {"logits_to_keep": count})
    loss, logits = reference_of_last(reference, count, **inputs)
    assert outputs.logits.shape == logits.shape == (*inputs["labels"].shape, VOCABULARY)
    assert difference(outputs.logits, logits) <= OUTPUT_TOLERANCE
    assert difference(outputs.loss, loss) <= OUTPUT_TOLERANCE


def test_nothing_but_the_last_logits_is_computed() -> None:
    model = own_model(CAUSAL, is_decoder=True)
    lengths: list[int] = []
    model.get_submodule("lm_head").register_forward_hook(lambda _, inputs, __: lengths.append(inputs[0].shape[1]))
    whole, last = (run(model, {"input_ids": random_ids(2, LENGTH), "logits_to_keep": count}) for count in (0, 1))
    assert lengths == [LENGTH, 1]
    assert difference(last.logits, whole.logits[:, -1:]) <= OUTPUT_TOLERANCE
    assert cached(last.past_key_values)["past.self.0.keys"].shape[2] == LENGTH


def past_of(kind: str, layers: list[tuple[Tensor, ...]]) -> Any:
    """Return the same keys and values in each form that a caller may pass, with or without those of cross-attention."""
    if kind == "tuple":
        return tuple(layers)
    own, cross = DynamicCache(), DynamicCache()
    for index, tensors in enumerate(layers):
        own.update(tensors[0], tensors[1], index)
        if len(tensors) == 4:
            cross.update(tensors[2], tensors[3], index)
    return own if kind == "dynamic" else EncoderDecoderCache(own, cross)


@pytest.mark.parametrize("kind", lines.PASTS)
@pytest.mark.parametrize("crossing", [False, True])
def test_pasts_in_every_form(*, kind: str, crossing: bool) -> None:
    if crossing and kind == "dynamic":
        kind = "encoder_decoder"  # in a cache with one part, transformers mixes up the keys of both attentions
    reference, ours = pair(CAUSAL, is_decoder=True, add_cross_attention=crossing)
    lengths = (3, 3) if not crossing else (3, 3, MEMORY, MEMORY)
    layers = [
        tuple(random_values(3, 4, length, HIDDEN // 4, seed=10 * layer + i) for i, length in enumerate(lengths))
        for layer in range(LAYERS)
    ]
    for steps, mask in product((1, 4), (False, True)):
        inputs: Inputs = {"input_ids": random_ids(3, steps), **INTERNALS, "use_cache": True}
        if mask:
            inputs["attention_mask"] = torch.ones(3, 3 + steps, dtype=torch.long)
            inputs["attention_mask"][1, :2] = 0
        if crossing:
            inputs["encoder_hidden_states"] = random_values(3, MEMORY, HIDDEN)
        mine = run(ours, inputs | {"past_key_values": past_of(kind, layers)})
        theirs = run(reference, inputs | {"past_key_values": past_of(kind, layers)})
        assert_equal_outputs(mine, theirs, final_norm=ours.base_model.LayerNorm)


def test_tuples_as_pasts_are_what_a_cache_is() -> None:
    """Our model is compared with itself, because transformers 5 takes no tuples."""
    _, ours = pair(CAUSAL, is_decoder=True)
    layers = [tuple(random_values(3, 4, 3, HIDDEN // 4, seed=layer + i) for i in (0, 7)) for layer in range(LAYERS)]
    ids = random_ids(3, 2)
    by_tuple = run(ours, {"input_ids": ids, "past_key_values": tuple(layers)})
    by_cache = run(ours, {"input_ids": ids, "past_key_values": past_of("dynamic", layers)})
    assert difference(by_tuple.logits, by_cache.logits) == 0.0
    assert isinstance(by_tuple.past_key_values, EncoderDecoderCache)
    assert isinstance(by_cache.past_key_values, DynamicCache)


def test_a_given_cache_grows_in_place_and_comes_back() -> None:
    _, ours = pair(CAUSAL, is_decoder=True)
    cache = DynamicCache()
    for length, use_cache in ((3, True), (2, True), (1, False)):
        outputs = run(ours, {"input_ids": random_ids(2, length), "past_key_values": cache, "use_cache": use_cache})
        assert outputs.past_key_values is cache
    assert cache.get_seq_length() == 6


@pytest.mark.parametrize("positions", ["absolute", "relative_key", "relative_key_query"])
@pytest.mark.parametrize("steps", [[1] * LENGTH, [4, 1, 1, 1], [2, 3, 2]])
@pytest.mark.parametrize("crossing", [False, True])
def test_steps_with_a_cache_equal_one_pass_without(*, positions: str, steps: list[int], crossing: bool) -> None:
    ours = own_model(CAUSAL, position_embedding_type=positions, is_decoder=True, add_cross_attention=crossing)
    ids = random_ids(2, LENGTH)
    extra = {"encoder_hidden_states": random_values(2, MEMORY, HIDDEN)} if crossing else {}
    whole = run(ours, {"input_ids": ids, "use_cache": False, **extra})
    assert whole.past_key_values is None
    past, logits = None, []
    for chunk in torch.split(ids, steps, dim=1):
        outputs = run(ours, {"input_ids": chunk, "past_key_values": past, "use_cache": True, **extra})
        past = outputs.past_key_values
        logits.append(outputs.logits)
    assert difference(torch.cat(logits, dim=1), whole.logits) <= OUTPUT_TOLERANCE
    assert {tensor.shape[2] for name, tensor in cached(past).items() if ".self." in name} == {LENGTH}
