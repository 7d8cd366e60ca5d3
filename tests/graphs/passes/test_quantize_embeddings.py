"""Gather(W, ids) -> Cast(Gather(W8, ids)) Gather(s, ids): tables of words in 8 bits, tied to a projection or not."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from rpln_graphs.forms import ALL_FORMS, forms_with_embeddings, write_form
from rpln_graphs.passes.quantize_embeddings import SAVED_KEY, QuantizeEmbeddings
from rpln_graphs.rewriting.counts import shortage_from_model
from rpln_graphs.rewriting.traits import GELU_HEAD, INPUTS_EMBEDS, GraphTraits
from tests.graphs.formulas import formulas_of
from tests.graphs.fusions import GRAPHS, applied, count, traced
from tests.graphs.networks import Network, trace_task
from tests.graphs.quantized import context_of, rounded_rows
from tests.graphs.text_graphs import Arrays, model_from_text, run, runner

RNG = np.random.default_rng(2)
TABLE = RNG.standard_normal((5, 4)).astype(np.float32) * np.array([[1], [100], [0.01], [0], [1]], dtype=np.float32)
FEEDS: Arrays = {"ids": np.array([[0, 1, 2, 3, 4, 1]]), "x": RNG.standard_normal((1, 6, 4)).astype(np.float32)}
GRAPH = """
g (int64[b, s] ids, float[b, s, 4] x) => (float[b, s, 4] found, float[b, s, 5] logits)
<float[5, 4] words = {{{table}}}, float[4, 5] own = {{{turned}}}>
{{
    found = Gather(words, ids)
    turned = Transpose<perm = [1, 0]>(words)
    logits = MatMul(x, {weight})
}}
"""


def graph(*, tied: bool) -> ir.Model:
    """Return a graph that looks words up in TABLE and projects onto it, by a copy of its own or by the table itself."""
    table, turned = (", ".join(map(repr, map(float, array.ravel()))) for array in (TABLE, TABLE.T))
    text = GRAPH.format(table=table, turned=turned, weight="turned" if tied else "own")
    if not tied:
        text = text.replace("    turned = Transpose<perm = [1, 0]>(words)\n", "")
    model = model_from_text(text)
    words = "lm_head.decoder.weight" if tied else "embeddings.word_embeddings.weight"
    model.graph.initializers["words"].name = words
    model.graph.initializers["own"].name = "lm_head.decoder.weight.T"
    return model


@pytest.mark.parametrize("tied", [True, False])
def test_each_word_is_rounded_by_a_scale_of_its_own(tied: bool) -> None:
    after = applied(graph(tied=tied), QuantizeEmbeddings)
    found = run(after, FEEDS)
    expected = rounded_rows(torch.from_numpy(TABLE)).numpy()

    assert count(after, QuantizeEmbeddings) == 2
    np.testing.assert_allclose(found["found"], expected[FEEDS["ids"]], rtol=1e-6)
    np.testing.assert_allclose(found["logits"], FEEDS["x"] @ expected.T, rtol=1e-4, atol=1e-5)
    assert (found["found"][0, 3] == 0).all()
    assert np.abs(found["found"] - TABLE[FEEDS["ids"]]).max() > 1e-3


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_table_is_stored_once_and_the_saving_is_noted(tied: bool) -> None:
    after = applied(graph(tied=tied), QuantizeEmbeddings)
    stored = [value.const_value for value in after.graph.initializers.values() if value.uses()]
    integers = [tensor for tensor in stored if tensor is not None and tensor.dtype == ir.DataType.INT8]

    tables = 1 if tied else 2
    assert len(integers) == tables
    assert sum(tensor.nbytes for tensor in stored if tensor is not None) == tables * (5 * 4 + 5 * 4)
    # 20 floats became 20 bytes and 5 scales.
    assert after.metadata_props[SAVED_KEY] == str(tables * (80 - 40))


@pytest.mark.parametrize(("task", "variant"), GRAPHS)
def test_every_graph_looks_up_and_projects_onto_quantized_words(task: str, variant: str) -> None:
    made = traced(task, variant)
    after = applied(made.graph, QuantizeEmbeddings)
    traits = formulas_of(made, task, variant)

    assert count(after, QuantizeEmbeddings) == QuantizeEmbeddings().expected(traits)
    assert shortage_from_model(after, QuantizeEmbeddings(), traits) is None
    assert {node.domain for node in after.graph} == {""}


def with_rounded_words(network: Network, feeds: Arrays) -> Arrays:
    """Return what the eager network gives with its words rounded by torch."""
    tables = {
        id(module.weight): module
        for name, module in network.model.named_modules()
        if name.endswith(("word_embeddings", "lm_head.decoder"))
    }
    kept = {key: module.weight.detach().clone() for key, module in tables.items()}
    try:
        for key, module in tables.items():
            module.weight.data = rounded_rows(kept[key])
        return network.eager(feeds)
    finally:
        for key, module in tables.items():
            module.weight.data = kept[key]


@pytest.mark.parametrize(
    ("task", "fields"),
    [
        ("token-classification", {}),
        ("fill-mask", {}),
        ("fill-mask", {"tie_word_embeddings": False}),
        ("text-generation", {}),
    ],
)
def test_a_network_computes_what_torch_computes_with_rounded_words(task: str, fields: dict[str, Any]) -> None:
    made = trace_task(task, **fields)
    after = applied(made.graph, QuantizeEmbeddings)
    computed, evaluator = runner(after), ReferenceEvaluator(ir.to_proto(after))
    for case in made.stress_cases()[:6]:
        expected = with_rounded_words(made, case.feeds)["logits"]
        assert np.abs(computed(case.feeds)["logits"] - expected).max() < 2e-5
        by_numpy = evaluator.run(["logits"], case.feeds)
        assert isinstance(by_numpy, list)
        assert np.abs(np.asarray(by_numpy[0]) - expected).max() < 2e-5
        assert np.abs(made.eager(case.feeds)["logits"] - expected).max() > 1e-4


@pytest.mark.parametrize("form", [name for name in ALL_FORMS if name.startswith(("static-packed", "dynamic-packed"))])
def test_packed_forms_look_up_real_tokens_alone(form: str) -> None:
    made = traced("token-classification")
    traits = formulas_of(made, "token-classification", "full")
    context = context_of(made, made.graph)
    plain = write_form(made.graph, ALL_FORMS[form], traits, context=context)
    after = write_form(made.graph, forms_with_embeddings(ALL_FORMS)[form], traits, context=context)

    assert count(after, QuantizeEmbeddings) == 1
    for case in made.stress_cases()[:3]:
        difference = np.abs(run(after, case.feeds)["logits"] - run(plain, case.feeds)["logits"]).max()
        assert 0 < difference < 0.2


def test_words_that_are_given_as_vectors_have_no_table() -> None:
    for features, readers in (({INPUTS_EMBEDS}, 0), ({INPUTS_EMBEDS, GELU_HEAD}, 1), ({GELU_HEAD}, 2), (set(), 1)):
        assert QuantizeEmbeddings().expected(GraphTraits(layers=2, features=frozenset(features))) == readers


@pytest.mark.parametrize(("task", "readers"), [("fill-mask", 1), ("token-classification", 0)])
def test_vectors_in_place_of_ids_leave_the_projection_alone(task: str, readers: int) -> None:
    made = trace_task(task, inputs=("inputs_embeds", "attention_mask", "token_type_ids"))
    after = applied(made.graph, QuantizeEmbeddings)

    assert count(after, QuantizeEmbeddings) == readers
