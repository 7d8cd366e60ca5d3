"""Golden graphs: the graph of every task by every recipe, and one graph in every form, as text.

The recipes of int8 have the graphs of fp32 or fp16 until a form is written, so that their golden graphs are those of
the forms.

`make golden` writes them anew.
"""

from functools import cache
from pathlib import Path

import onnx_ir as ir
import pytest

from rpln_graphs.calibrate import measure_ranges
from rpln_graphs.forms import FORMS, INT8_FORMS, STANDARD, TENSORRT_FORMS, write_form
from rpln_graphs.quantization.quantizers import Quantizer
from rpln_graphs.recipes import RECIPES, apply_recipe
from rpln_graphs.rewriting.base import Context
from rpln_graphs.rewriting.traits import GraphTraits
from rpln_graphs.trace import DEFAULT_OPSET
from rpln_graphs.variants import VARIANTS
from rpln_runtime.tasks import TASKS
from tests.graphs.decoders import bert_config
from tests.graphs.formulas import formulas_of
from tests.graphs.networks import Network, copied, tiny_model, trace_task, trace_variant
from tests.graphs.snapshots import text_from_model

GOLDEN = Path(__file__).with_name("golden")
SAME_AS = {"decode": "with-past"}
"""Variants whose graph equals that of another variant, to the last node."""
ONE_BY_ONE = [name for name, recipe in RECIPES.items() if not recipe.quantizes]
"""The recipes whose passes write their graphs."""
ROWS = [
    (task.name, variant, recipe)
    for task in TASKS.values()
    for variant in (*task.variants, *task.encoders)
    for recipe in ONE_BY_ONE
    if variant not in SAME_AS
]
TEXT = ("input_ids", "attention_mask")
IN_FORMS = "token-classification"
POOLED = "feature-extraction.pooled"
"""A graph that pools by mean and by maximum, with a Dense and a Normalize behind it."""
FORM_ROWS = [name for name in FORMS if name != STANDARD.name]
RECIPE_OF_FORM = {form: name for name, recipe in RECIPES.items() for form in recipe.forms if form in TENSORRT_FORMS}
"""The recipe that each form for TensorRT goes with."""
WIDE = {"weights-4-blocks": {"hidden_size": 128}}
"""The fields of the networks that forms need, whose blocks are larger than the tiny network's weights."""
QUANTIZER = Quantizer(scale=0.03125, zero_point=100)


@cache
def one_layer(task: str, variant: str, *, opset: int = DEFAULT_OPSET, **fields: int) -> Network:
    """Return a network of one layer, with other fields of its config if they are given.

    Hidden states of a foreign encoder are as wide as the decoder; those of its own encoder are projected.
    """
    model = tiny_model(
        TASKS[task],
        num_hidden_layers=1,
        type_vocab_size=1,
        encoder=bert_config(32) if variant == "cross" else None,
        **fields,
    )
    return trace_variant(model, TASKS[task], variant, opset=opset)


def written(task: str, variant: str, recipe: str, **fields: int) -> tuple[ir.Model, GraphTraits]:
    """Return a graph in the standard form, and its traits for the formulas."""
    network = one_layer(task, variant, opset=max(DEFAULT_OPSET, RECIPES[recipe].oldest_opset), **fields)
    return rewritten(network, formulas_of(network, task, variant), recipe)


def rewritten(network: Network, formulas: GraphTraits, recipe: str) -> tuple[ir.Model, GraphTraits]:
    graph, row = copied(network.graph), RECIPES[recipe]
    batches = [case.feeds for case in network.stress_cases()]
    apply_recipe(
        graph,
        row,
        formulas,
        folds=row.folds,
        measure=lambda model: measure_ranges(model, batches),
    )
    return graph, formulas


def compare(name: str, graph: ir.Model, *, refresh: bool) -> None:
    path = GOLDEN / f"{name}.txt"
    text = text_from_model(graph)
    if refresh:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")

    assert path.exists(), "make golden writes it"
    assert text.splitlines() == path.read_text(encoding="utf-8").splitlines(), "meant so? make golden writes it anew"


@pytest.mark.parametrize(("task", "variant", "recipe"), ROWS)
def test_graphs_are_as_they_were(task: str, variant: str, recipe: str, refresh_golden: bool) -> None:
    graph, _ = written(task, variant, recipe)

    compare(f"{task}.{variant}.{recipe}", graph, refresh=refresh_golden)


@pytest.mark.parametrize("recipe", ONE_BY_ONE)
def test_graphs_that_pool_are_as_they_were(recipe: str, refresh_golden: bool) -> None:
    network = trace_task("feature-extraction", num_hidden_layers=1, inputs=TEXT, poolings=("mean", "max"))
    graph, _ = rewritten(network, GraphTraits(layers=1), recipe)

    compare(f"{POOLED}.{recipe}", graph, refresh=refresh_golden)


@pytest.mark.parametrize("form", FORM_ROWS)
def test_forms_are_as_they_were(form: str, refresh_golden: bool) -> None:
    graph, formulas = written(IN_FORMS, "full", "fp32")

    compare(f"{IN_FORMS}.full.fp32.{form}", write_form(graph, FORMS[form], formulas), refresh=refresh_golden)


@pytest.mark.parametrize("form", INT8_FORMS)
def test_forms_of_int8_are_as_they_were(form: str, refresh_golden: bool) -> None:
    graph, formulas = written(IN_FORMS, "full", "fp32")
    context = Context(quantizers={str(value.name): QUANTIZER for node in graph.graph for value in node.outputs})

    quantized = write_form(graph, INT8_FORMS[form], formulas, context=context)
    compare(f"{IN_FORMS}.full.int8.{form}", quantized, refresh=refresh_golden)


@pytest.mark.parametrize("form", TENSORRT_FORMS)
def test_forms_for_tensorrt_are_as_they_were(form: str, refresh_golden: bool) -> None:
    graph, formulas = written(IN_FORMS, "full", RECIPE_OF_FORM[form], **WIDE.get(form, {}))
    quantizer = Quantizer(scale=0.03125, zero_point=0, dtype=TENSORRT_FORMS[form].rounds_to)
    context = Context(quantizers={str(value.name): quantizer for node in graph.graph for value in node.outputs})

    quantized = write_form(graph, TENSORRT_FORMS[form], formulas, context=context)
    compare(f"{IN_FORMS}.full.{form}", quantized, refresh=refresh_golden)


def test_no_golden_graph_is_left_over() -> None:
    names = {f"{task}.{variant}.{recipe}.txt" for task, variant, recipe in ROWS}
    names |= {f"{IN_FORMS}.full.fp32.{form}.txt" for form in FORM_ROWS}
    names |= {f"{IN_FORMS}.full.int8.{form}.txt" for form in INT8_FORMS}
    names |= {f"{IN_FORMS}.full.{form}.txt" for form in TENSORRT_FORMS}
    names |= {f"{POOLED}.{recipe}.txt" for recipe in ONE_BY_ONE}

    assert {path.name for path in GOLDEN.iterdir()} <= names


@pytest.mark.parametrize(("variant", "other"), SAME_AS.items())
def test_a_graph_that_is_not_stored_takes_and_gives_what_another_does(variant: str, other: str) -> None:
    one, two = VARIANTS[variant], VARIANTS[other]

    assert (one.inputs, one.outputs, one.reshaped) == (two.inputs, two.outputs, two.reshaped)
    assert one.standalone is two.standalone
