"""Gradient checkpointing, switched on by transformers' own method, changes no gradient."""

from typing import Any

import pytest
import torch
from torch import Tensor

from rpln_model import ModelInputError
from tests.model.lines import TRANSFORMERS_4
from tests.model.references import GRADIENT_TOLERANCE, HIDDEN, LENGTH, difference, own_model, random_ids, random_values

CAUSAL = "RobertaPreLayerNormForCausalLM"


def enable(model: Any, **options: Any) -> None:
    if TRANSFORMERS_4:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    else:  # transformers deprecates the name
        model.activation_checkpointing_enable(options)


def gradients(model: Any, memory: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    memory = memory.clone().requires_grad_()
    ids = random_ids(2, LENGTH)
    torch.manual_seed(0)  # the seed of the dropout
    model(ids, labels=ids, encoder_hidden_states=memory).loss.backward()
    assert memory.grad is not None
    return {"memory": memory.grad} | {name: each.grad for name, each in model.named_parameters()}


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradients_are_the_same(*, reentrant: bool) -> None:
    model = own_model(CAUSAL, is_decoder=True, add_cross_attention=True, hidden_dropout_prob=0.2).train()
    memory = random_values(2, 5, HIDDEN)
    expected = gradients(model, memory)
    enable(model, use_reentrant=reentrant)
    runs: list[int] = []
    hook = model.base_model.encoder.layer[0].attention.register_forward_hook(lambda *_: runs.append(1))
    found = gradients(model, memory)
    hook.remove()
    assert len(runs) == 2  # once forward, once again on the way back
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert difference(gradient, expected[name]) <= GRADIENT_TOLERANCE, name


def test_there_is_no_cache_while_layers_run_twice() -> None:
    model: Any = own_model(CAUSAL, is_decoder=True).train()
    ids = random_ids(2, LENGTH)
    past = model(ids).past_key_values
    assert past is not None
    enable(model, use_reentrant=False)
    assert model(ids).past_key_values is None
    with pytest.raises(ModelInputError, match=r"past_key_values.* gradient_checkpointing_disable"):
        model(ids, past_key_values=past)
    assert model.eval()(ids).past_key_values is not None
