"""Graphs from texts give the ids of the tokenizers library, except for the differences that are listed here.

Each difference of the operator itself has a test that shows it. When a release corrects it, the test fails, and the
workaround can be removed.
"""

import json
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from rpln_graphs.text import DOMAIN, BytePairs, text_graph
from rpln_runtime.facts import LEFT, RIGHT
from tests.graphs.text_graphs import model_from_text
from tests.text_graphs import TextGraph, needs_operators

pytestmark = needs_operators

USABLE_LENGTH = 24
CORPUS = ("The dog barked; the cat slept.", "naïve café 東京 😀 1234 56.7", "isn't it? <b>bold</b> a<b", " £ ¢ ¥ § ¶")
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")

TOKENS_ONLY = """
agraph (int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask, int64[batch, sequence] token_type_ids)
    => (int64[batch, sequence] total) {
    real = Mul(input_ids, attention_mask)
    total = Add(real, token_type_ids)
}
"""


def make_tokenizer(*, prefix_space: bool, lstrip: bool = True, rstrip: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=[*SPECIAL, AddedToken("<mask>", lstrip=lstrip, rstrip=rstrip, normalized=False)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*CORPUS] * 3, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=prefix_space)
    return tokenizer


def byte_pairs(tokenizer: Tokenizer, *, prefix_space: bool, truncation_side: str = RIGHT) -> BytePairs:
    document = json.loads(tokenizer.to_str())
    mask = document["added_tokens"][-1]
    return BytePairs(
        vocabulary=document["model"]["vocab"],
        merges=tuple(" ".join(pair) for pair in document["model"]["merges"]),
        mask="<mask>",
        prefix_space=prefix_space,
        mask_takes_space_before=mask["lstrip"],
        mask_takes_space_after=mask["rstrip"],
        truncation_side=truncation_side,
    )


@pytest.fixture(scope="module", params=[False, True], ids=["as-it-is", "prefix-space"])
def both(request: pytest.FixtureRequest) -> tuple[Tokenizer, TextGraph]:
    """Return a tokenizer, and a graph that contains it."""
    tokenizer = make_tokenizer(prefix_space=request.param)
    return tokenizer, made_graph(tokenizer, prefix_space=request.param)


def made_graph(tokenizer: Tokenizer, *, prefix_space: bool, truncation_side: str = RIGHT) -> TextGraph:
    pairs = byte_pairs(tokenizer, prefix_space=prefix_space, truncation_side=truncation_side)
    model = text_graph(model_from_text(TOKENS_ONLY), pairs, longest_text=USABLE_LENGTH)
    return TextGraph(ir.to_proto(model).SerializeToString())


def cut(ids: list[int]) -> list[int]:
    return ids if len(ids) <= USABLE_LENGTH else [*ids[: USABLE_LENGTH - 1], 2]


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\x85\ufdd0"), max_size=30)
PIECES = st.lists(st.sampled_from(["<mask>", " ", "\n", "\u3000", "a", "the dog", "<", "<m", ">", "é", "'s", "7"]))


@given(text=TEXTS | PIECES.map("".join))
@example("The dog <mask> in London.")
@example("<mask>")
@example("\n <mask><mask>b<mask>")
@example("a <b")
@example("a <mas")
@example("")
@example(" ")
@settings(max_examples=400, deadline=None)
def test_ids_are_those_of_the_tokenizer(both: tuple[Tokenizer, TextGraph], text: str) -> None:
    tokenizer, graph = both
    assume(not any(token in text for token in SPECIAL))
    assert graph.ids(text) == cut(tokenizer.encode(text).ids)


def test_a_text_may_have_any_number_of_masks(both: tuple[Tokenizer, TextGraph]) -> None:
    tokenizer, graph = both
    text = "a<mask>" * 20_000
    assert graph.ids(text) == cut(tokenizer.encode(text).ids)


def test_offsets_are_not_asked_for() -> None:
    pairs = byte_pairs(make_tokenizer(prefix_space=False), prefix_space=False)
    model = text_graph(model_from_text(TOKENS_ONLY), pairs, longest_text=USABLE_LENGTH)
    (node,) = [node for node in model.graph if node.op_type == "RobertaTokenizer"]
    assert len(node.outputs) == 2  # with a third, texts with many masks overwrite memory that is not the operator's


@pytest.fixture(
    scope="module",
    params=[(lstrip, rstrip, prefix) for lstrip, rstrip in [(False, False), (True, True)] for prefix in (False, True)],
    ids=str,
)
def another_mask(request: pytest.FixtureRequest) -> tuple[Tokenizer, TextGraph]:
    """Return a tokenizer whose mask takes no space, or those on both sides, and a graph that contains it."""
    lstrip, rstrip, prefix = request.param
    tokenizer = make_tokenizer(prefix_space=prefix, lstrip=lstrip, rstrip=rstrip)
    return tokenizer, made_graph(tokenizer, prefix_space=prefix)


@given(text=PIECES.map("".join))
@example("The dog  <mask>  in London.")
@example(" <mask> <mask>  <mask>b")
@settings(max_examples=200, deadline=None)
def test_spaces_belong_to_the_mask_as_the_tokenizer_says(another_mask: tuple[Tokenizer, TextGraph], text: str) -> None:
    tokenizer, graph = another_mask
    assert graph.ids(text) == cut(tokenizer.encode(text).ids)


def test_texts_are_cut_on_the_left() -> None:
    tokenizer = make_tokenizer(prefix_space=False)
    graph = made_graph(tokenizer, prefix_space=False, truncation_side=LEFT)
    texts = ["a", "The dog barked; " * 20, "", "naïve <mask>", "Q" * (USABLE_LENGTH - 2), "Q" * (USABLE_LENGTH - 1)]
    wholes = [tokenizer.encode(text).ids for text in texts]
    rows = [row if len(row) <= USABLE_LENGTH else [0, *row[1 - USABLE_LENGTH :]] for row in wholes]
    found = graph(texts)
    assert found["input_ids"].tolist() == [row + [1] * (USABLE_LENGTH - len(row)) for row in rows]
    assert found["attention_mask"].tolist() == [[1] * len(row) + [0] * (USABLE_LENGTH - len(row)) for row in rows]
    assert [graph.ids(text) for text in texts] == rows


def test_texts_are_padded_behind_their_ends_and_cut(both: tuple[Tokenizer, TextGraph]) -> None:
    tokenizer, graph = both
    texts = ["a", "The dog barked; " * 20, "", "naïve <mask>"]
    found = graph(texts)
    encoded = [cut(tokenizer.encode(text).ids) for text in texts]
    assert max(map(len, encoded)) == USABLE_LENGTH
    expected = [row + [1] * (USABLE_LENGTH - len(row)) for row in encoded]
    assert found["input_ids"].tolist() == expected
    assert found["attention_mask"].tolist() == [[1] * len(row) + [0] * (USABLE_LENGTH - len(row)) for row in encoded]
    np.testing.assert_array_equal(found["total"], found["input_ids"] * found["attention_mask"])


@pytest.mark.parametrize("length", [USABLE_LENGTH - 1, USABLE_LENGTH, USABLE_LENGTH + 1])
def test_a_text_is_cut_where_it_is_too_long_and_not_before(both: tuple[Tokenizer, TextGraph], length: int) -> None:
    tokenizer, graph = both
    text = next(text for text in ("Q" * count for count in range(length)) if len(tokenizer.encode(text)) == length)
    ids = tokenizer.encode(text).ids
    assert graph.ids(text) == cut(ids)


def test_weights_are_not_copied() -> None:
    model = model_from_text("""
agraph (int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask) => (float[batch, sequence, 2] y)
    <float[3, 2] table = {0, 1, 2, 3, 4, 5}> {
    y = Gather(table, input_ids)
}
""")
    tokenizer = byte_pairs(make_tokenizer(prefix_space=False), prefix_space=False)
    result = text_graph(model, tokenizer, longest_text=USABLE_LENGTH)
    assert result.graph.initializers["table"].const_value is model.graph.initializers["table"].const_value
    assert [value.name for value in model.graph.inputs] == ["input_ids", "attention_mask"]
    assert [value.name for value in result.graph.outputs] == ["y", "input_ids", "attention_mask"]


# what stays different


@pytest.mark.parametrize(
    ("text", "seen_as"),
    [("The dog\0 barked", "The dog"), ("\0", "")],
)
def test_nul_ends_a_text(both: tuple[Tokenizer, TextGraph], text: str, seen_as: str) -> None:
    tokenizer, graph = both
    assert graph.ids(text) == tokenizer.encode(seen_as).ids != tokenizer.encode(text).ids


def test_next_line_is_no_white_space(both: tuple[Tokenizer, TextGraph]) -> None:
    """U+0085 is the only white space of Unicode that the operator does not take for white space."""
    tokenizer, graph = both
    assert graph.ids("a \x85b") != tokenizer.encode("a \x85b").ids


def test_what_follows_a_special_token_in_a_text_gets_no_space() -> None:
    """Masks are an exception: the tokenizer puts a space before them."""
    tokenizer = make_tokenizer(prefix_space=True)
    graph = made_graph(tokenizer, prefix_space=True)
    assert graph.ids("a</s> b") == tokenizer.encode("a</s>b").ids == tokenizer.encode("a</s> b").ids
    assert graph.ids("a</s>b") != tokenizer.encode("a</s>b").ids


# what the operator itself does differently


OUTPUTS = ("input_ids", "attention_mask", "offset_mapping")


@pytest.fixture(scope="module")
def operator() -> tuple[Tokenizer, TextGraph]:
    """Return the tokenizer, and its operator alone, with the special tokens passed to it."""
    return operator_alone(OUTPUTS[:2])


def operator_alone(outputs: Sequence[str]) -> tuple[Tokenizer, TextGraph]:
    tokenizer = make_tokenizer(prefix_space=False)
    pairs = byte_pairs(tokenizer, prefix_space=False)
    attributes: dict[str, str | int] = {
        "vocab": json.dumps(dict(pairs.vocabulary)),
        "merges": "\n".join(pairs.merges),
        "added_token": "\n".join(f"{token}={pairs.vocabulary[token]}" for token in (*SPECIAL, "<mask>")),
        "padding_length": -1,
    }
    text = ir.val("text", ir.DataType.STRING, ["batch"])
    node = ir.node("RobertaTokenizer", [text], attributes, domain=DOMAIN, num_outputs=len(outputs))
    for value, name in zip(node.outputs, outputs, strict=True):
        value.name, value.dtype = name, ir.DataType.INT64
    graph = ir.Graph([text], node.outputs, nodes=[node], opset_imports={"": 20, DOMAIN: 1}, name="operator")
    return tokenizer, TextGraph(ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString())


def test_the_operator_leaves_the_space_before_a_mask(operator: tuple[Tokenizer, TextGraph]) -> None:
    tokenizer, graph = operator
    space = tokenizer.encode(" ").ids[1]
    expected = tokenizer.encode("dog <mask>").ids
    assert graph.ids("dog <mask>") == [*expected[:-2], space, *expected[-2:]]


@pytest.mark.parametrize("text", ["a <b", "a <mas", "<<"])
def test_the_operator_loses_the_end_of_a_text_that_ends_like_the_beginning_of_a_token(
    operator: tuple[Tokenizer, TextGraph], text: str
) -> None:
    tokenizer, graph = operator
    assert graph.ids(text) == tokenizer.encode(text[: text.index("<") + 1]).ids != tokenizer.encode(text).ids


def test_offsets_behind_a_row_that_is_padded_are_those_of_other_tokens() -> None:
    _, graph = operator_alone(OUTPUTS)  # in texts of several parts, the operator would write beyond its memory
    text = "The dog barked"
    alone = graph([text])["offset_mapping"][0].tolist()
    assert graph([text, "a"])["offset_mapping"][0].tolist() == alone
    assert graph(["a", text])["offset_mapping"][1].tolist() != alone
