"""`generate` is transformers' own, with positions counted as the networks were trained."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.model.encoder_decoders import pair as encoder_decoder_pair
from tests.model.references import PAD, own_model, pair, random_ids

CAUSAL = "RobertaPreLayerNormForCausalLM"
NEW = 6
OPTIONS: dict[str, Any] = {"max_new_tokens": NEW, "min_new_tokens": NEW, "pad_token_id": PAD}


def prompts() -> tuple[Tensor, Tensor]:
    """Return prompts, one of which is padded on the left."""
    ids = random_ids(3, 5)
    ids[1, :2] = PAD
    return ids, (ids != PAD).long()


def greedily(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """Return tokens generated step by step without a cache, where transformers' forward pass counts the positions."""
    for _ in range(NEW):
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, -1]
        logits[:, [2]] = -torch.inf  # no text ends before the last token
        ids = torch.cat([ids, logits.argmax(dim=-1, keepdim=True)], dim=1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return ids


@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_search_gives_the_tokens_of_stepping_transformers_forward(*, use_cache: bool) -> None:
    reference, counterpart = pair(CAUSAL, is_decoder=True)
    ours: Any = counterpart
    ids, mask = prompts()
    expected = greedily(reference, ids, mask)
    assert len({tuple(row) for row in expected[:, 5:].tolist()}) == 3
    assert ours.generate(ids, attention_mask=mask, do_sample=False, use_cache=use_cache, **OPTIONS).tolist() == (
        expected.tolist()
    )


def test_beams_do_not_depend_on_padding() -> None:
    model: Any = own_model(CAUSAL, is_decoder=True)
    ids, mask = prompts()
    found = model.generate(ids, attention_mask=mask, num_beams=3, **OPTIONS)[1, 5:]
    assert found.tolist() == model.generate(ids[1:2, 2:], num_beams=3, **OPTIONS)[0, 3:].tolist()


def test_given_positions_are_taken_as_they_are() -> None:
    model: Any = own_model(CAUSAL, is_decoder=True)
    ids = random_ids(2, 5)
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda _model, _inputs, named: seen.append(named["position_ids"]), with_kwargs=True)
    model.generate(ids, position_ids=torch.arange(5)[None].expand(2, -1) + 7, **OPTIONS)
    assert seen[0].tolist() == [[7, 8, 9, 10, 11]] * 2


@pytest.mark.parametrize("beams", [1, 3])
def test_an_encoder_decoder_generates_what_transformers_generates(beams: int) -> None:
    reference, ours = encoder_decoder_pair()
    ids = random_ids(3, 6)
    ids[1, -2:] = PAD
    inputs = {"attention_mask": (ids != PAD).long(), "num_beams": beams, "do_sample": False, **OPTIONS}
    expected = reference.generate(ids, **inputs)
    found: Any = ours
    assert found.generate(ids, **inputs).tolist() == expected.tolist()
    assert expected.shape == (3, NEW + 1)
