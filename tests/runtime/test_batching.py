import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.roberta_prelayernorm import modeling_roberta_prelayernorm as reference

from rpln_runtime import InputError
from rpln_runtime.batching import batches, feeds_from_encodings, rows_from_outputs, token_budget
from rpln_runtime.manifest import TensorSpec, read_manifest
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
    # A text may hold the padding token itself: the mask sees it, positions do not.
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
    with pytest.raises(InputError, match="the graph takes 'inputs_embeds', which does not follow from text"):
        feeds_from_encodings([encoding([0])], dataclasses.replace(manifest.graphs[0], inputs=(spec,)), manifest)


def test_rows_lose_their_padding(bundle_of: Callable[..., Bundle]) -> None:
    graph = read_manifest(bundle_of("question-answering").folder).graphs[0]
    attention = TensorSpec(name="attentions.0", dtype="float16", shape=("batch", 2, "sequence", "sequence"))
    graph = dataclasses.replace(graph, outputs=(*graph.outputs, attention))
    outputs = {
        "start_logits": np.arange(6, dtype=np.float16).reshape(2, 3),
        "attentions.0": np.zeros((2, 2, 3, 3), np.float16),
    }
    rows = list(rows_from_outputs(outputs, [encoding([0, 2]), encoding([0, 7, 2])], graph))
    assert [row["start_logits"].tolist() for row in rows] == [[0, 1], [3, 4, 5]]
    assert [row["attentions.0"].shape for row in rows] == [(2, 2, 2), (2, 3, 3)]
    assert {array.dtype.name for row in rows for array in row.values()} == {"float32"}
