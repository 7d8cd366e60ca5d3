import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.roberta_prelayernorm import modeling_roberta_prelayernorm as reference

from rpln_runtime import InputError
from rpln_runtime.batching import (
    batches,
    costs_from_encodings,
    feeds_from_encodings,
    rows_from_outputs,
    token_budget,
)
from rpln_runtime.manifest import Manifest, TensorSpec, read_manifest
from rpln_runtime.tokenization import Encoding
from tests.runtime.bundles import Bundle


def encoding(ids: list[int]) -> Encoding:
    column = np.array(ids)
    return Encoding(column, column % 2, np.zeros((len(ids), 2), np.int64), column, column, column)


@given(lengths=st.lists(st.integers(0, 512)), batch_size=st.integers(1, 40), batch_tokens=st.integers(1, 5000))
def test_batches_hold_every_row_once_within_the_limits(lengths: list[int], batch_size: int, batch_tokens: int) -> None:
    made = list(batches(lengths, batch_size=batch_size, batch_tokens=batch_tokens))
    assert sorted(index for batch in made for index in batch) == list(range(len(lengths)))
    for batch in made:
        assert 1 <= len(batch) <= batch_size
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= batch_tokens
    in_order = [lengths[index] for batch in made for index in batch]
    assert in_order == sorted(lengths, reverse=True)


def test_a_big_vocabulary_makes_small_batches() -> None:
    def budget(*shape: str | int) -> int:
        return token_budget([TensorSpec(name="logits", dtype="float32", shape=shape)], 512)

    assert budget("batch", "sequence", 6) == 4096
    assert budget("batch", 6) == 4096
    assert budget("batch", "sequence", 50265) == 2**28 // (4 * 50265)
    assert budget("batch", 12, "sequence", "sequence") == 2**28 // (4 * 512 * 512)


def test_feeds_follow_the_inputs_of_the_graph(bundle_of: Callable[..., Bundle]) -> None:
    manifest = read_manifest(bundle_of("token-classification").folder)
    axes = ("batch", "sequence")
    names = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
    specs = [TensorSpec(name=name, dtype="int64", shape=axes) for name in names]
    specs.append(TensorSpec(name="head_mask", dtype="float32", shape=(2, 3)))
    graph = dataclasses.replace(manifest.graphs[0], inputs=tuple(specs))
    # A text may contain the padding token. The mask keeps it, and it has no position of its own.
    rows = [encoding([0, 7, 8, 2]), encoding([0, 1, 2])]
    feeds = feeds_from_encodings(rows, graph, manifest)
    assert feeds["input_ids"].tolist() == [[0, 7, 8, 2], [0, 1, 2, 1]]
    assert feeds["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert feeds["token_type_ids"].tolist() == [[0, 1, 0, 0], [0, 1, 0, 0]]
    assert feeds["head_mask"].tolist() == [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    assert {feed.dtype.name for name, feed in feeds.items() if name != "head_mask"} == {"int64"}
    assert feeds["head_mask"].dtype == np.float32
    ids = torch.from_numpy(feeds["input_ids"])
    embeddings = reference.RobertaPreLayerNormEmbeddings
    make = (
        getattr(reference, "create_position_ids_from_input_ids", None) or embeddings.create_position_ids_from_input_ids
    )
    assert feeds["position_ids"].tolist() == make(ids, 1).tolist()


def test_multiple_choice_gets_one_choice_a_row(bundle_of: Callable[..., Bundle]) -> None:
    manifest = read_manifest(bundle_of("multiple-choice").folder)
    feeds = feeds_from_encodings([encoding([0, 2]), encoding([0, 7, 2])], manifest.graphs[0], manifest)
    assert feeds["input_ids"].tolist() == [[[0, 2, 1]], [[0, 7, 2]]]


def test_embeddings_do_not_follow_from_text(bundle_of: Callable[..., Bundle]) -> None:
    manifest = read_manifest(bundle_of("multiple-choice").folder)
    spec = TensorSpec(name="inputs_embeds", dtype="float32", shape=("batch", "sequence", 32))
    with pytest.raises(InputError, match="'inputs_embeds'"):
        feeds_from_encodings([encoding([0])], dataclasses.replace(manifest.graphs[0], inputs=(spec,)), manifest)


def test_rows_lose_their_padding(bundle_of: Callable[..., Bundle]) -> None:
    manifest = read_manifest(bundle_of("question-answering").folder)
    attention = TensorSpec(name="attentions.0", dtype="float16", shape=("batch", 2, "sequence", "sequence"))
    graph = dataclasses.replace(manifest.graphs[0], outputs=(*manifest.graphs[0].outputs, attention))
    outputs = {
        "start_logits": np.arange(6, dtype=np.float16).reshape(2, 3),
        "attentions.0": np.zeros((2, 2, 3, 3), np.float16),
    }
    rows = list(rows_from_outputs(outputs, [encoding([0, 2]), encoding([0, 7, 2])], graph, manifest))
    assert [row["start_logits"].tolist() for row in rows] == [[0, 1], [3, 4, 5]]
    assert [row["attentions.0"].shape for row in rows] == [(2, 2, 2), (2, 3, 3)]
    assert {array.dtype.name for row in rows for array in row.values()} == {"float32"}


MASK = 5


def mask_manifest(bundle_of: Callable[..., Bundle], logits: tuple[str | int, ...]) -> Manifest:
    """Return the manifest of a fill-mask graph whose mask token is 5, with logits of this shape."""
    manifest = read_manifest(bundle_of("fill-mask").folder)
    positions = TensorSpec(name="masked_positions", dtype="int64", shape=("batch", "masks"))
    graph = dataclasses.replace(
        manifest.graphs[0],
        inputs=(*manifest.graphs[0].inputs, positions),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=logits),),
    )
    return dataclasses.replace(manifest, graphs=(graph,), mask_token_id=MASK)


def test_positions_are_those_of_the_mask_tokens(bundle_of: Callable[..., Bundle]) -> None:
    manifest = mask_manifest(bundle_of, ("batch", "masks", 4))
    rows = [encoding([0, MASK, 8, MASK]), encoding([0, 7]), encoding([0, 7, MASK])]
    feeds = feeds_from_encodings(rows, manifest.graphs[0], manifest)
    assert feeds["masked_positions"].tolist() == [[1, 3], [0, 0], [2, 0]]
    assert feeds_from_encodings(rows[1:2], manifest.graphs[0], manifest)["masked_positions"].shape == (1, 0)


@pytest.mark.parametrize(
    ("axes", "logits"),
    [
        (("masked_tokens", 1), [[1], [3], [9]]),
        (("batch", "masks", 1), [[[1], [3]], [[-1], [-1]], [[9], [-1]]]),
    ],
)
def test_rows_get_the_logits_of_their_masks(
    bundle_of: Callable[..., Bundle], axes: tuple[str | int, ...], logits: list[Any]
) -> None:
    manifest = mask_manifest(bundle_of, axes)
    encodings = [encoding([0, MASK, 8, MASK]), encoding([0, 7]), encoding([0, 7, MASK])]
    outputs = {"logits": np.array(logits, dtype=np.float16)}
    rows = list(rows_from_outputs(outputs, encodings, manifest.graphs[0], manifest))
    assert [row["logits"].tolist() for row in rows] == [[[1], [3]], [], [[9]]]
    assert rows[1]["logits"].shape == (0, 1)


def test_a_row_counts_its_tokens_or_what_the_logits_of_its_masks_weigh(bundle_of: Callable[..., Bundle]) -> None:
    rows = [encoding([0] * 20), encoding([0] * 17 + [MASK] * 3), encoding([MASK] * 20)]

    def costs(*axes: str | int) -> list[int]:
        manifest = mask_manifest(bundle_of, axes)
        return costs_from_encodings(rows, manifest.graphs[0].outputs, manifest)

    assert costs("batch", "sequence", 50265) == [20, 20, 20]  # see token_budget
    assert costs("batch", "masks", 100) == [20, 20, 20]
    for axes in (("batch", "masks", 50265), ("masked_tokens", 50265)):
        assert costs(*axes) == [20, 20, 62]
        assert 4096 // 62 * 20 * 50265 * 4 <= 2**28 < (4096 // 62 + 2) * 20 * 50265 * 4
