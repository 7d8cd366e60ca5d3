"""Every head traces with dynamic sizes, and the trace works for sizes it was not made from, 1 among them."""

from typing import Any

import pytest
import torch
from torch.export import Dim

from rpln_model import EncoderDecoderModel
from tests.model.encoder_decoders import WIDE, pair
from tests.model.references import (
    HEAD_COUNT,
    HIDDEN,
    LAYERS,
    OUTPUT_TOLERANCE,
    PAD,
    SINGLE_HEADS,
    Inputs,
    difference,
    own_model,
    random_ids,
    random_values,
    tiny_config,
)

CHOICE, CAUSAL = "RobertaPreLayerNormForMultipleChoice", "RobertaPreLayerNormForCausalLM"
TAGGER = "RobertaPreLayerNormForTokenClassification"


def token_inputs(*shape: int) -> Inputs:
    ids = random_ids(*shape)
    ids[..., shape[-1] - shape[-1] // 3 :] = PAD
    return {"input_ids": ids, "attention_mask": (ids != PAD).long()}


def exported(model: Any, inputs: Inputs) -> Any:
    dynamic = {name: dict.fromkeys(range(tensor.dim()), Dim.DYNAMIC) for name, tensor in inputs.items()}
    return torch.export.export(model, (), kwargs=inputs, dynamic_shapes=dynamic)


def assert_same(program: Any, model: Any, inputs: Inputs) -> None:
    mine, theirs = program(**inputs), model(**inputs)
    for got, expected in zip(mine.values(), theirs.values(), strict=True):
        if isinstance(expected, torch.Tensor):
            assert difference(got, expected) <= OUTPUT_TOLERANCE


@pytest.mark.parametrize("architecture", SINGLE_HEADS)
def test_every_head_traces_with_every_size_dynamic(architecture: str) -> None:
    model = own_model(
        architecture,
        num_hidden_layers=1,
        is_decoder=architecture == CAUSAL,
        use_cache=False,
        chunk_size_feed_forward=2,
    )
    choices = (2,) if architecture == CHOICE else ()
    program = exported(model, token_inputs(3, *choices, 7)).module()
    for batch, length in ((1, 1), (1, 17), (4, 1), (2, 5)):
        for choices in ((1,), (3,)) if architecture == CHOICE else ((),):
            assert_same(program, model, token_inputs(batch, *choices, length))


@pytest.mark.parametrize(("architecture", "positions"), [(TAGGER, "relative_key_query"), (CAUSAL, "relative_key")])
def test_relative_positions_trace(architecture: str, positions: str) -> None:
    model = own_model(
        architecture,
        num_hidden_layers=1,
        position_embedding_type=positions,
        is_decoder=architecture == CAUSAL,
        use_cache=False,
    )
    program = exported(model, token_inputs(3, 7)).module()
    for batch, length in ((1, 1), (1, 17), (4, 1)):
        assert_same(program, model, token_inputs(batch, length))


def all_inputs(batch: int, length: int) -> Inputs:
    ids = torch.arange(length).expand(batch, -1)
    return {
        "attention_mask": torch.ones(batch, length, dtype=torch.long),
        "token_type_ids": ids % 3,
        "position_ids": ids + 2,
        "head_mask": random_values(LAYERS, HEAD_COUNT).sigmoid(),
        "inputs_embeds": random_values(batch, length, HIDDEN),
        "output_attentions": True,
        "output_hidden_states": True,
    }


def test_every_optional_input_and_output_traces() -> None:
    model = own_model("RobertaPreLayerNormModel")
    inputs = all_inputs(3, 7)
    tokens = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    dynamic = {
        name: tokens if name not in ("head_mask", "output_attentions", "output_hidden_states") else None
        for name in inputs
    }
    program = torch.export.export(model, (), kwargs=inputs, dynamic_shapes=dynamic).module()
    for batch, length in ((1, 1), (1, 17), (4, 1)):
        sized = all_inputs(batch, length)
        got, expected = program(**sized), model(**sized)
        assert difference(got.pooler_output, expected.pooler_output) <= OUTPUT_TOLERANCE
        for name in ("hidden_states", "attentions"):
            for mine, theirs in zip(got[name], expected[name], strict=True):
                assert difference(mine, theirs) <= OUTPUT_TOLERANCE


def test_a_trace_restricts_no_size() -> None:
    program = exported(own_model(TAGGER, num_hidden_layers=1), token_inputs(3, 7))
    assert len(program.range_constraints) == 2  # batch and sequence, the same in both inputs
    assert all(allowed.upper > 10**9 for allowed in program.range_constraints.values())
    assert not [node for node in program.graph.nodes if "assert_scalar" in str(node.target)]


def test_the_last_logits_trace() -> None:
    model = own_model(CAUSAL, num_hidden_layers=1, is_decoder=True, use_cache=False)
    inputs = token_inputs(3, 7)
    dynamic = {name: dict.fromkeys(range(2), Dim.DYNAMIC) for name in inputs} | {"logits_to_keep": None}
    program = torch.export.export(model, (), kwargs=inputs | {"logits_to_keep": 1}, dynamic_shapes=dynamic)
    assert all(allowed.upper > 10**9 for allowed in program.range_constraints.values())
    for batch, length in ((1, 1), (1, 17), (4, 1), (2, 5)):
        sized = token_inputs(batch, length) | {"logits_to_keep": 1}
        assert_same(program.module(), model, sized)
        assert model(**sized).logits.shape[1] == 1


class EncoderGraph(torch.nn.Module):
    """The module that runs once, before the steps of the decoder."""

    def __init__(self, model: EncoderDecoderModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.model.encode(input_ids, attention_mask)
        pairs = self.model.cross_key_values(hidden)
        return {f"{layer}.{part}": tensor for layer, pair in enumerate(pairs) for part, tensor in enumerate(pair)}


@pytest.mark.parametrize("width", [HIDDEN, WIDE])
def test_an_encoder_with_keys_and_values_of_its_output_traces(width: int) -> None:
    _, model = pair(tiny_config(hidden_size=width))
    graph = EncoderGraph(model)
    program = exported(graph, token_inputs(3, 7)).module()
    for batch, length in ((1, 1), (1, 17), (4, 1)):
        assert_same(program, graph, token_inputs(batch, length))
