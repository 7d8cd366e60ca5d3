"""Pruning heads and resizing the vocabulary, with transformers 4.57 and 5."""

from pathlib import Path

import pytest
import torch

from rpln_model import ConfigError
from tests.model.references import (
    HEAD_COUNT,
    HIDDEN,
    LAYERS,
    LENGTH,
    OUTPUT_TOLERANCE,
    PAD,
    SINGLE_HEADS,
    VOCABULARY,
    difference,
    own_model,
    pair,
    random_ids,
)

MASKED_LM = "RobertaPreLayerNormForMaskedLM"


def test_a_pruned_head_is_a_silenced_one() -> None:
    gone = {0: [1, 3], 1: [0]}
    mask = torch.ones(LAYERS, HEAD_COUNT)
    for layer, heads in gone.items():
        mask[layer, heads] = 0
    model, ids = own_model(MASKED_LM), random_ids(3, LENGTH)
    with torch.no_grad():
        expected = model(ids, head_mask=mask).logits
        model.prune_heads(gone)
        assert difference(model(ids).logits, expected) <= OUTPUT_TOLERANCE
    weights = [layer.attention.self.query.weight.shape[0] for layer in model.base_model.encoder.layer]
    assert weights == [HIDDEN // 2, 3 * HIDDEN // 4]


def test_pruning_again_numbers_heads_as_before() -> None:
    once, twice = own_model(MASKED_LM), own_model(MASKED_LM)
    once.prune_heads({0: [0, 2]})
    twice.prune_heads({0: [0]})
    twice.prune_heads({0: [2]})
    assert once.config.pruned_heads == twice.config.pruned_heads == {0: [0, 2]}
    assert difference(twice(random_ids(2, LENGTH)).logits, once(random_ids(2, LENGTH)).logits) == 0


def test_layers_are_counted_from_the_last_one_too() -> None:
    model = own_model(MASKED_LM)
    model.prune_heads({-1: [1]})
    model.prune_heads({1: [2]})
    assert model.config.pruned_heads == {1: [1, 2]}


def test_a_pruned_model_still_trains() -> None:
    model = own_model(MASKED_LM).train()
    model.prune_heads({0: [1]})
    model(random_ids(2, LENGTH), labels=random_ids(2, LENGTH)).loss.backward()
    gradient = model.base_model.encoder.layer[0].attention.self.query.weight.grad
    assert gradient.shape == (3 * HIDDEN // 4, HIDDEN)


def test_a_pruned_checkpoint_loads_pruned(tmp_path: Path) -> None:
    model, ids = own_model(MASKED_LM), random_ids(2, LENGTH)
    model.prune_heads({0: [1, 3], 1: [0]})
    model.save_pretrained(tmp_path)
    loaded = SINGLE_HEADS[MASKED_LM].from_pretrained(tmp_path)
    assert difference(loaded(ids).logits, model(ids).logits) == 0
    loaded.prune_heads({0: [0]})
    assert loaded.config.pruned_heads == {0: [0, 1, 3], 1: [0]}


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({0: [1], 5: [0]}, "cannot prune heads of layer 5: the layers are 0 to 1"),
        ({0: [4]}, r"cannot prune heads \[4\] of a layer whose heads are \[0, 1, 2, 3\]: there is no such head"),
        ({0: [0, 1, 2, 3]}, r"cannot prune heads \[0, 1, 2, 3\] of a layer .*: none would be left"),
    ],
)
def test_impossible_pruning_is_refused(heads: dict[int, list[int]], message: str) -> None:
    model = own_model(MASKED_LM)
    with pytest.raises(ConfigError, match=message):
        model.prune_heads(heads)
    assert [len(layer.attention.heads) for layer in model.base_model.encoder.layer] == [HEAD_COUNT, HEAD_COUNT]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("size", [VOCABULARY + 6, VOCABULARY - 6, VOCABULARY])
def test_resized_vocabularies_keep_what_they_had(*, size: int, tied: bool, tmp_path: Path) -> None:
    reference, ours = pair(MASKED_LM, tie_word_embeddings=tied)
    reference.resize_token_embeddings(size, mean_resizing=False)
    new = ours.resize_token_embeddings(size, mean_resizing=False)
    kept = min(size, VOCABULARY)
    ids = random_ids(2, LENGTH, high=kept)
    with torch.no_grad():
        theirs, mine = reference(ids).logits, ours(ids).logits
    assert mine.shape == theirs.shape == (2, LENGTH, size)
    assert difference(mine[..., :kept], theirs[..., :kept]) <= OUTPUT_TOLERANCE
    assert new is ours.get_input_embeddings()
    assert ours.config.vocab_size == reference.config.vocab_size == size
    assert [*ours.state_dict()] == [*SINGLE_HEADS[MASKED_LM](ours.config).state_dict()]
    ours(torch.tensor([[0, PAD, 5]])).logits.sum().backward()
    assert new.weight.grad is not None
    if not tied:  # otherwise the output projection reads the row, too
        assert new.weight.grad[PAD].abs().max() == 0
    ours.save_pretrained(tmp_path)
    again = SINGLE_HEADS[MASKED_LM].from_pretrained(tmp_path)
    assert difference(again(ids).logits, mine) == 0


def test_embeddings_can_be_replaced() -> None:
    model = own_model(MASKED_LM)
    table = torch.nn.Embedding(VOCABULARY, HIDDEN, padding_idx=1)
    model.set_input_embeddings(table)
    model.tie_weights()
    output = model.get_output_embeddings()
    assert output is not None
    assert output.weight is table.weight
    assert own_model("RobertaPreLayerNormModel").get_output_embeddings() is None
