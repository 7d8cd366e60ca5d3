"""Every head gives what transformers gives: outputs, hidden states, attentions, losses, gradients."""

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rpln_model.base import RobertaPreLayerNormPreTrainedModel
from tests.model import lines
from tests.model.references import (
    HEAD_COUNT,
    HIDDEN,
    LAYERS,
    LENGTH,
    MASKS,
    PAD,
    SINGLE_HEADS,
    VOCABULARY,
    Inputs,
    assert_equal_gradients,
    assert_equal_outputs,
    labels_for,
    padding_mask,
    pair,
    random_ids,
    random_values,
    token_shape,
)

# The four activations of the documentation, and one of torch's.
ACTIVATIONS = ("gelu", "relu", "silu", "gelu_new", "tanh")
INTERNALS = {"output_attentions": True, "output_hidden_states": True}


def compare(reference: Any, ours: RobertaPreLayerNormPreTrainedModel, inputs: Inputs) -> None:
    with torch.no_grad():
        theirs = reference(**inputs, **INTERNALS)
        mine = ours(**inputs, **INTERNALS)
    assert_equal_outputs(mine, theirs, final_norm=ours.base_model.LayerNorm)


def inputs_of(architecture: str, *, mask: str, token_types: bool, embeds: bool) -> Inputs:
    shape = token_shape(architecture)
    inputs: Inputs = {}
    ids = random_ids(*shape)
    if mask != "none":
        inputs["attention_mask"] = padding_mask(mask, shape)
        ids[inputs["attention_mask"] == 0] = PAD
    if token_types:
        inputs["token_type_ids"] = random_ids(*shape, high=5, seed=4) - 2
    if embeds:
        inputs["inputs_embeds"] = random_values(*shape, HIDDEN)
    else:
        inputs["input_ids"] = ids
    return inputs


@pytest.mark.parametrize("positions", lines.POSITION_TYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("architecture", SINGLE_HEADS)
def test_outputs_equal_for_every_mask_token_type_and_kind_of_input(
    architecture: str, activation: str, positions: str
) -> None:
    reference, ours = pair(architecture, hidden_act=activation, position_embedding_type=positions)
    for mask, token_types, embeds in product(("none", *MASKS), (False, True), (False, True)):
        compare(reference, ours, inputs_of(architecture, mask=mask, token_types=token_types, embeds=embeds))


@pytest.mark.parametrize("positions", lines.POSITION_TYPES)
@pytest.mark.parametrize("architecture", SINGLE_HEADS)
def test_losses_and_gradients_equal(architecture: str, positions: str) -> None:
    decoder = architecture.endswith("CausalLM")
    reference, ours = pair(architecture, position_embedding_type=positions, is_decoder=decoder)
    inputs = inputs_of(architecture, mask="left", token_types=True, embeds=False) | labels_for(architecture)
    for model in (reference, ours):
        outputs = model(**inputs)
        loss = outputs.last_hidden_state.sin().sum() if outputs.get("loss") is None else outputs.loss
        loss.backward()
    compare(reference, ours, inputs)
    assert_equal_gradients(ours, reference)


@pytest.mark.parametrize("head_mask", lines.HEAD_MASKS)
def test_head_masks_silence_heads(head_mask: str) -> None:
    reference, ours = pair("RobertaPreLayerNormForTokenClassification")
    inputs = inputs_of("RobertaPreLayerNormForTokenClassification", mask="holes", token_types=False, embeds=False)
    masks: Inputs = {
        "none": {},
        "heads": {"head_mask": torch.tensor([1.0, 0.0, 0.5, 1.0])},
        "layers_and_heads": {"head_mask": random_values(LAYERS, HEAD_COUNT).gt(0).float()},
    }
    compare(reference, ours, inputs | masks[head_mask])


@pytest.mark.parametrize("is_decoder", [False, True])
@pytest.mark.parametrize("kind", lines.SELF_MASKS)
def test_masks_of_other_kinds(*, kind: str, is_decoder: bool) -> None:
    reference, ours = pair("RobertaPreLayerNormModel", is_decoder=is_decoder, use_cache=False)
    masks = {
        "boolean": padding_mask("holes", (3, LENGTH)).bool(),
        "float": padding_mask("holes", (3, LENGTH)).float(),
        "fractions": random_values(3, LENGTH).sigmoid(),
        "queries_by_keys": random_values(3, LENGTH, LENGTH).gt(-0.5).long(),
    }
    compare(reference, ours, {"input_ids": random_ids(3, LENGTH), "attention_mask": masks[kind]})


@pytest.fixture(scope="module")
def taggers() -> tuple[Any, RobertaPreLayerNormPreTrainedModel]:
    return pair("RobertaPreLayerNormForTokenClassification")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(data=st.data())
def test_any_ids_and_any_mask(taggers: tuple[Any, RobertaPreLayerNormPreTrainedModel], data: st.DataObject) -> None:
    """Lengths go from 1 to the usable maximum. Padding tokens may be unmasked, and other tokens masked."""
    rows, length = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 17))
    row = st.lists(st.integers(0, VOCABULARY - 1), min_size=length, max_size=length)
    bits = st.lists(st.integers(0, 1), min_size=length, max_size=length)
    ids, mask = (torch.tensor(data.draw(st.lists(of, min_size=rows, max_size=rows))) for of in (row, bits))
    compare(*taggers, {"input_ids": ids, "attention_mask": mask})
