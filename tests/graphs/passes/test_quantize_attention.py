"""queries, keys -> DequantizeLinear(QuantizeLinear(queries)), the same for keys: scores of attentions in 8 bits."""

import numpy as np
import onnx_ir as ir
import pytest

from rpln_graphs.errors import PassError
from rpln_graphs.forms import Form, write_form
from rpln_graphs.passes.quantize_attention import QuantizeAttention
from rpln_graphs.quantization.quantizers import Quantizer
from rpln_graphs.rewriting.base import KEPT_FOR_ACCURACY, Context
from rpln_graphs.rewriting.quantizing import NOT_MEASURED
from rpln_graphs.rewriting.traits import GraphTraits
from tests.graphs.folded import refused
from tests.graphs.formulas import formulas_of
from tests.graphs.fusions import count, traced
from tests.graphs.quantized import ATTENTION, ENCODERS, context_of, quantized
from tests.graphs.text_graphs import Arrays, model_from_text, node_named, operators, run

SELF = f"{ATTENTION}.self".replace(".", "__")
GRAPH = f"""
g (float[b, s, 2] x) => (float[b, s, s] y, float[b, s, 2] {SELF}__key__Add)
<float[2] one = {{0.3, 0.3}}>
{{
    {SELF}__query__Add = Add(x, one)
    {SELF}__key__Add = Sub(x, one)
    {SELF}__value__Add = Add(x, one)
    turned = Transpose<perm = [0, 2, 1]>({SELF}__key__Add)
    scores = MatMul({SELF}__query__Add, turned)
    more = Transpose<perm = [0, 2, 1]>({SELF}__value__Add)
    others = MatMul({SELF}__query__Add, more)
    y = Add(scores, others)
}}
"""
QUERY, KEY, VALUE = (f"{ATTENTION}.self.{name}.Add" for name in ("query", "key", "value"))
SCALES = {QUERY: 0.5, KEY: 1.0, VALUE: 2.0}
CONTEXT = Context(quantizers={name: Quantizer(scale=scale, zero_point=128) for name, scale in SCALES.items()})
FEEDS: Arrays = {"x": np.array([[[0.5, -1.0], [2.0, 300.0]]], dtype=np.float32)}
FORM = Form(name="scores", passes=(QuantizeAttention,))


def test_queries_and_keys_are_rounded_and_values_are_not() -> None:
    after = quantized(model_from_text(GRAPH), CONTEXT, QuantizeAttention)

    queries = np.array([[1.0, -0.5], [2.5, 63.5]])  # of 0.8, -0.7, 2.3 and 300.3
    keys = np.array([[0.0, -1.0], [2.0, 127.0]])  # of 0.2, -1.3, 1.7 and 299.7
    values = FEEDS["x"][0] + np.float32(0.3)
    np.testing.assert_allclose(run(after, FEEDS)["y"][0], queries @ keys.T + queries @ values.T, rtol=1e-6)
    assert count(after, QuantizeAttention) == 2
    assert refused(after, QuantizeAttention) == {}


def test_all_readers_share_one_rounding() -> None:
    after = quantized(model_from_text(GRAPH), CONTEXT, QuantizeAttention)

    assert operators(after).count("QuantizeLinear") == 2
    rounded = node_named(after, f"{QUERY}.rounded").outputs[0]
    assert {node_named(after, name).inputs[0] for name in ("scores", "others")} == {rounded}


def test_what_the_graph_gives_out_is_not_rounded() -> None:
    before = model_from_text(GRAPH)
    after = quantized(before, CONTEXT, QuantizeAttention)

    np.testing.assert_array_equal(run(after, FEEDS)[KEY], run(before, FEEDS)[KEY])


@pytest.mark.parametrize(
    ("context", "reason"),
    [
        (Context(quantizers=CONTEXT.quantizers, kept=frozenset({ATTENTION})), KEPT_FOR_ACCURACY),
        (Context(), NOT_MEASURED),
    ],
)
def test_an_attention_that_is_not_rounded_stays_as_it_is(context: Context, reason: str) -> None:
    before = model_from_text(GRAPH)
    after = quantized(before, context, QuantizeAttention)

    assert refused(after, QuantizeAttention) == {QUERY: reason, KEY: reason}
    assert ir.to_proto(after.graph) == ir.to_proto(before.graph)


@pytest.mark.parametrize("task", ENCODERS)
def test_two_values_of_each_attention_are_rounded(task: str) -> None:
    made = traced(task)
    traits = formulas_of(made, task, "full")
    after = write_form(made.graph, FORM, traits, context=context_of(made, made.graph))

    assert count(after, QuantizeAttention) == QuantizeAttention().expected(traits) == 4
    assert QuantizeAttention().expected(GraphTraits(layers=3, cross_attention=True)) == 12


def test_attentions_that_are_kept_count_like_others_in_the_formula() -> None:
    made = traced("token-classification")
    traits = formulas_of(made, "token-classification", "full")
    context = context_of(made, made.graph, kept=[ATTENTION])

    assert count(write_form(made.graph, FORM, traits, context=context), QuantizeAttention) == 2
    with pytest.raises(PassError, match=f"QuantizeAttention changed 0 of 4 places(.|\n)*{NOT_MEASURED}"):
        write_form(made.graph, FORM, traits)
