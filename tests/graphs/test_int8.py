"""An int8 graph computes what its scales say: the eager network with torch's own rounding, and numpy, give the same.

Rounding may flip where a value lies between two steps, so that a few texts may differ a little; a wrong scale changes
all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from rpln_graphs.forms import INT8_FORMS, write_form
from rpln_graphs.quantization.quantizers import Quantizers
from rpln_graphs.quantization.rounding import QUANTIZED, SCALE
from rpln_graphs.recipes import FOLDS
from rpln_graphs.rewriting.base import Context
from rpln_graphs.rewriting.initializers import change_initializer, initializer_from_array
from tests.graphs.folded import applied
from tests.graphs.formulas import formulas_of
from tests.graphs.networks import Network, trace_task
from tests.graphs.quantized import context_of, rounding, texts
from tests.graphs.text_graphs import Arrays, node_named, runner

TASKS = ("token-classification", "text-classification")
OWN = [name for name, form in INT8_FORMS.items() if not form.accurate_as]
FP32 = 2e-5
"""The difference of two computations in fp32 that round alike."""
FLIPPED = 0.25
"""The most texts in which a rounding may flip."""


@cache
def network(task: str) -> Network:
    return trace_task(task)


def form_of(task: str, form: str, graph: ir.Model, context: Context) -> ir.Model:
    return write_form(graph, INT8_FORMS[form], formulas_of(network(task), task, "full"), context=context)


def emulated(task: str, quantizers: Quantizers | None) -> list[Arrays]:
    made = network(task)
    with rounding(made, made.graph, quantizers):
        return [made.eager(feeds) for feeds in texts(made)]


def computed(task: str, graph: ir.Model) -> list[Arrays]:
    run = runner(graph)
    return [run(feeds) for feeds in texts(network(task))]


def differing(found: Sequence[Arrays], expected: Sequence[Arrays]) -> float:
    """Return the share of texts in which an output differs."""
    wrong = [
        max(float(np.abs(one[name] - other[name]).max()) for name in other) > FP32
        for one, other in zip(found, expected, strict=True)
    ]
    return sum(wrong) / len(wrong)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("form", ["static", "dynamic"])
def test_a_graph_computes_what_torch_computes_with_its_own_rounding(task: str, form: str) -> None:
    made = network(task)
    context = context_of(made, made.graph)
    quantizers = context.quantizers if INT8_FORMS[form].calibrated else None
    found = computed(task, form_of(task, form, made.graph, context))

    assert differing(found, emulated(task, quantizers)) <= FLIPPED
    # The rounding is seen: the same network in fp32 gives something else for every text.
    assert differing(found, [made.eager(feeds) for feeds in texts(made)]) == 1.0


@pytest.mark.parametrize("form", OWN)
def test_a_folded_graph_computes_what_numpy_computes(form: str) -> None:
    task = TASKS[0]
    folded = applied(network(task).graph, *FOLDS)
    written = form_of(task, form, folded, context_of(network(task), folded))
    evaluator = ReferenceEvaluator(ir.to_proto(written))
    names = [str(value.name) for value in written.graph.outputs]
    expected = [dict(zip(names, evaluator.run(None, feeds), strict=True)) for feeds in texts(network(task))]

    assert differing(computed(task, written), expected) <= FLIPPED


# -- what the comparison finds -----------------------------------------------------------------------------------------


def double_a_scale(graph: ir.Model) -> None:
    change_initializer(graph.graph.initializers["encoder.layer.1.intermediate.Gelu.scale"], lambda scale: scale * 2)


def shift_a_zero_point(graph: ir.Model) -> None:
    """Let floats be made with another zero point than the integers were. Both together may be shifted."""
    constant = initializer_from_array("shifted", np.array(100, dtype=np.uint8))
    graph.graph.register_initializer(constant)
    node_named(graph, "encoder.layer.1.intermediate.Gelu.rounded").replace_input_with(2, constant)


def scale_by_the_wrong_axis(graph: ir.Model) -> None:
    """Turn the scales of a square weight's columns into those of its rows."""
    name = "encoder.layer.1.attention.self.value.weight.T"
    node_named(graph, name).attributes["axis"] = ir.AttrInt64("axis", 0)


def shift_scales(graph: ir.Model) -> None:
    """Give each column of a weight the scale of the next one."""
    scales = graph.graph.initializers["encoder.layer.1.attention.self.value.weight.T" + SCALE]
    change_initializer(scales, lambda array: np.roll(array, 1))


def round_down(graph: ir.Model) -> None:
    weight = graph.graph.initializers["encoder.layer.1.output.dense.weight.T" + QUANTIZED]
    change_initializer(weight, lambda array: np.maximum(array, -126) - 1)


@pytest.mark.parametrize(
    ("form", "sabotage"),
    [
        *(("static", sabotage) for sabotage in (double_a_scale, shift_a_zero_point, scale_by_the_wrong_axis)),
        *((form, sabotage) for form in ("static", "dynamic") for sabotage in (shift_scales, round_down)),
    ],
)
def test_a_graph_that_rounds_otherwise_is_found(form: str, sabotage: Callable[[ir.Model], None]) -> None:
    task = TASKS[0]
    made = network(task)
    context = context_of(made, made.graph)
    written = form_of(task, form, made.graph, context)
    sabotage(written)
    quantizers = context.quantizers if INT8_FORMS[form].calibrated else None

    assert differing(computed(task, written), emulated(task, quantizers)) == 1.0


def test_a_scale_that_is_a_hundredth_off_is_found() -> None:
    task = TASKS[0]
    made = network(task)
    context = context_of(made, made.graph)
    name = "encoder.layer.1.intermediate.Gelu"
    coarse = replace(context.quantizers[name], scale=context.quantizers[name].scale * 1.01)
    written = form_of(task, "static", made.graph, context)

    assert differing(computed(task, written), emulated(task, {**context.quantizers, name: coarse})) == 1.0
