"""Logits of some tokens are those of all tokens at these positions, and no others are computed."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.model.references import LENGTH, OUTPUT_TOLERANCE, VOCABULARY, difference, own_model, random_ids

MASKED = "RobertaPreLayerNormForMaskedLM"
POSITIONS = {
    "several": [[0, 3], [LENGTH - 1, 0], [2, 2]],
    "one": [[1], [0], [LENGTH - 1]],
    "none": [[], [], []],
}


def run(**inputs: Any) -> Any:
    with torch.no_grad():
        return own_model(MASKED)(random_ids(3, LENGTH), **inputs)


@pytest.mark.parametrize("kind", POSITIONS)
def test_logits_at_positions(kind: str) -> None:
    positions = torch.tensor(POSITIONS[kind], dtype=torch.long)
    logits = run(masked_positions=positions).logits

    whole = run().logits
    expected = torch.stack([whole[row, places] for row, places in enumerate(positions)])
    assert logits.shape == (*positions.shape, VOCABULARY)
    assert kind == "none" or difference(logits, expected) <= OUTPUT_TOLERANCE


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_logits_of_marked_tokens_come_in_one_list(share: float) -> None:
    marked = torch.rand(3, LENGTH, generator=torch.Generator().manual_seed(0)) < share
    logits = run(masked_positions=marked).logits

    whole = run().logits
    expected = [whole[row, place] for row in range(3) for place in range(LENGTH) if marked[row, place]]
    assert logits.shape == (len(expected), VOCABULARY)
    assert not expected or difference(logits, torch.stack(expected)) <= OUTPUT_TOLERANCE


def test_no_other_logits_are_computed() -> None:
    model = own_model(MASKED)
    shapes: list[tuple[int, ...]] = []
    model.get_submodule("lm_head").register_forward_hook(
        lambda _, inputs, __: shapes.append(tuple(inputs[0].shape[:-1]))
    )
    ids = random_ids(3, LENGTH)
    for positions in (None, torch.zeros(3, 2, dtype=torch.long), ids == ids[1, 2]):
        model(ids, masked_positions=positions)

    assert shapes == [(3, LENGTH), (3, 2), (1, int((ids == ids[1, 2]).sum()))]


def test_labels_are_those_of_the_selected_tokens() -> None:
    positions = torch.tensor([[0, 3], [1, 0], [2, 2]])
    labels: Tensor = random_ids(3, 2, seed=7)
    outputs = run(masked_positions=positions, labels=labels)

    expected = torch.nn.functional.cross_entropy(outputs.logits.reshape(-1, VOCABULARY), labels.reshape(-1))
    assert difference(outputs.loss, expected) <= OUTPUT_TOLERANCE
