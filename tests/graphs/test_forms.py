"""Every form of every graph has as many rewritten places as written here by hand, and gives what eager torch gives."""

from functools import cache

import onnx_ir as ir
import pytest

from rpln_graphs.errors import PassError
from rpln_graphs.forms import FORMS, STANDARD, Form, reasons_without_effect, write_form
from rpln_graphs.passes.fuse_skip_layer_norm import FuseSkipLayerNorm
from rpln_graphs.recipes import FOLDS
from rpln_graphs.rewriting.base import counts_from_model
from rpln_graphs.rewriting.traits import GraphTraits
from tests.graphs.formulas import formulas_of
from tests.graphs.fusions import GRAPHS, LAYERS, applied, traced
from tests.graphs.real_tokens import eager_difference
from tests.graphs.snapshots import text_from_model
from tests.graphs.text_graphs import model_from_text

FP32 = 1e-4
CROSS = "text2text-generation"
FIRST = {"text-classification", "multiple-choice"}
CACHED = {"with-past", "prefill"}
ROWS = [(form, task, variant) for form in FORMS for task, variant in GRAPHS]


@cache
def folded(task: str, variant: str) -> ir.Model:
    return applied(traced(task, variant).graph, *FOLDS)


def layers_of(variant: str) -> int:
    return 1 if variant == "encoder" else LAYERS


def attentions(task: str, variant: str) -> int:
    return layers_of(variant) * (2 if task == CROSS and variant != "encoder" else 1)


def expected(name: str, task: str, variant: str) -> int:
    """Return how many places a pass changes in a graph of two layers. The encoder of an encoder-decoder has one."""
    decodes = task in {"text-generation", CROSS} and variant != "encoder"
    blocks = 3 if task == CROSS and decodes else 2
    return {
        # Decoders are not packed: their steps have no padding, and the last logits of a prompt may belong to padding.
        "PackTokens": 0 if decodes else layers_of(variant) - (task in FIRST),
        "FuseAttention": attentions(task, variant),
        "FuseMultiHeadAttention": attentions(task, variant),
        "FuseSkipLayerNorm": blocks * layers_of(variant) + 1,
        "FuseEmbedLayerNorm": 1,
        "FuseBiasGelu": layers_of(variant) + (task == "fill-mask" or decodes),
        "FuseFastGelu": 0,
        "MergeProjections": layers_of(variant),
    }[name]


@pytest.mark.parametrize(("form", "task", "variant"), ROWS)
def test_a_form_is_what_its_formulas_say_and_equal_to_eager_torch(form: str, task: str, variant: str) -> None:
    network, graph = traced(task, variant), folded(task, variant)
    before = text_from_model(graph)
    written = write_form(graph, FORMS[form], formulas_of(network, task, variant))

    counts = counts_from_model(written)
    passes = [kind.__name__ for kind in FORMS[form].passes]
    assert {name: counts[name] for name in passes} == {name: expected(name, task, variant) for name in passes}
    if FORMS[form].standard:
        assert {node.domain for node in written.graph} == {""}
    assert eager_difference(network, written) <= FP32
    assert text_from_model(graph) == before


# -- of any pass -----------------------------------------------------------------------------------------------------

FUSED = Form(name="fused", passes=(FuseSkipLayerNorm,), standard=False)
READ = """g (float[b, s, 3] x, float[b, s, 3] block) => (float[b, s, 3] y) <float[3] gamma = {1, 2, 3}> {
    total = Add(x, block)
    y = LayerNormalization<axis = 1>(total, gamma)
}"""


def test_a_shortage_names_the_form_the_node_and_the_reason() -> None:
    with pytest.raises(PassError) as caught:
        write_form(model_from_text(READ), FUSED, GraphTraits(layers=1))
    assert str(caught.value).startswith("--optimize fused: FuseSkipLayerNorm changed 0 of 3 places of the graph.")
    assert "\n  y: " in str(caught.value)


def test_where_that_is_allowed_a_form_is_written_in_part() -> None:
    written = write_form(model_from_text(READ), FUSED, GraphTraits(layers=1), allow_partial=True)

    assert counts_from_model(written)["FuseSkipLayerNorm"] == 0


def test_a_form_shares_its_weights() -> None:
    graph = folded("token-classification", "full")
    written = write_form(graph, FORMS["packed"], GraphTraits(layers=LAYERS))
    shared = [name for name, value in graph.graph.initializers.items() if name in written.graph.initializers]

    assert len(shared) > 10 * LAYERS
    for name in shared:
        assert written.graph.initializers[name].const_value is graph.graph.initializers[name].const_value


def test_a_form_without_effect_says_why() -> None:
    formulas = formulas_of(traced("text-generation", "with-past"), "text-generation", "with-past")

    assert reasons_without_effect(FORMS["packed"], formulas) != []
    assert reasons_without_effect(FORMS["packed"], GraphTraits(layers=2)) == []
    assert reasons_without_effect(STANDARD, formulas) == []
