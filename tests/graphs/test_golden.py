"""Golden graphs: what every task looks like by every recipe, as text. `make golden` writes them anew."""

from functools import cache
from pathlib import Path

import pytest

from rpln_graphs.calibrate import measure_ranges
from rpln_graphs.passes.base import Network as Formulas
from rpln_graphs.recipes import RECIPES, apply_recipe
from rpln_graphs.stages import EncoderStage
from rpln_graphs.variants import VARIANTS
from rpln_runtime.tasks import TASKS
from tests.graphs.decoders import bert_config
from tests.graphs.networks import Network, copied, tiny_model, trace_variant
from tests.graphs.snapshots import text_from_model

GOLDEN = Path(__file__).with_name("golden")
SAME_AS = {"decode": "with-past"}
"""Variants whose graph is another one's, to the last node."""
ROWS = [
    (task.name, variant, recipe)
    for task in TASKS.values()
    for variant in (*task.variants, *task.encoders)
    for recipe in RECIPES
    if variant not in SAME_AS
]


@cache
def one_layer(task: str, variant: str) -> Network:
    """Hidden states of another architecture are as wide as the decoder's; those of its own encoder are projected."""
    model = tiny_model(
        TASKS[task],
        num_hidden_layers=1,
        type_vocab_size=1,
        encoder=bert_config(32) if variant == "cross" else None,
    )
    return trace_variant(model, TASKS[task], variant)


def formulas(network: Network) -> Formulas:
    if isinstance(network.model, EncoderStage):
        return Formulas(layers=0 if network.model.base_model is None else 1)
    return Formulas(layers=1, cross_attention=network.config.add_cross_attention)


def snapshot(task: str, variant: str, recipe: str) -> str:
    network = one_layer(task, variant)
    graph = copied(network.graph)
    batches = [case.feeds for case in network.stress_cases()]
    apply_recipe(graph, RECIPES[recipe], formulas(network), measure=lambda model: measure_ranges(model, batches))
    return text_from_model(graph)


@pytest.mark.parametrize(("task", "variant", "recipe"), ROWS)
def test_graphs_are_as_they_were(task: str, variant: str, recipe: str, refresh_golden: bool) -> None:
    path = GOLDEN / f"{task}.{variant}.{recipe}.txt"
    text = snapshot(task, variant, recipe)
    if refresh_golden:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")

    assert path.exists(), "make golden writes it"
    assert text.splitlines() == path.read_text(encoding="utf-8").splitlines(), "meant so? make golden writes it anew"


def test_no_golden_graph_is_left_over() -> None:
    names = {f"{task}.{variant}.{recipe}.txt" for task, variant, recipe in ROWS}

    assert {path.name for path in GOLDEN.iterdir()} <= names


@pytest.mark.parametrize(("variant", "other"), SAME_AS.items())
def test_a_graph_that_is_not_stored_takes_and_gives_what_another_does(variant: str, other: str) -> None:
    one, two = VARIANTS[variant], VARIANTS[other]

    assert (one.inputs, one.outputs, one.reshaped) == (two.inputs, two.outputs, two.reshaped)
    assert one.standalone is two.standalone
