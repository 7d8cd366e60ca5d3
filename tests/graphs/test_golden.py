"""Golden graphs: what every task looks like by every recipe, as text. `make golden` writes them anew."""

from functools import cache
from pathlib import Path

import pytest

from rpln_graphs.calibrate import measure_ranges
from rpln_graphs.passes.base import Network as Formulas
from rpln_graphs.recipes import RECIPES, apply_recipe
from rpln_runtime.tasks import TASKS
from tests.graphs.networks import Network, copied, trace_task
from tests.graphs.snapshots import text_from_model

GOLDEN = Path(__file__).with_name("golden")
ROWS = [(task.name, variant, recipe) for task in TASKS.values() for variant in task.variants for recipe in RECIPES]


@cache
def one_layer(task: str) -> Network:
    return trace_task(task, inputs=("input_ids", "attention_mask"), num_hidden_layers=1, type_vocab_size=1)


def snapshot(task: str, recipe: str) -> str:
    network = one_layer(task)
    graph = copied(network.graph)
    batches = [case.feeds for case in network.stress_cases()]
    apply_recipe(graph, RECIPES[recipe], Formulas(layers=1), measure=lambda model: measure_ranges(model, batches))
    return text_from_model(graph)


@pytest.mark.parametrize(("task", "variant", "recipe"), ROWS)
def test_graphs_are_as_they_were(task: str, variant: str, recipe: str, refresh_golden: bool) -> None:
    assert variant == "full"
    path = GOLDEN / f"{task}.{variant}.{recipe}.txt"
    text = snapshot(task, recipe)
    if refresh_golden:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")

    assert path.exists(), "make golden writes it"
    assert text.splitlines() == path.read_text(encoding="utf-8").splitlines(), "meant so? make golden writes it anew"


def test_no_golden_graph_is_left_over() -> None:
    names = {f"{task}.{variant}.{recipe}.txt" for task, variant, recipe in ROWS}

    assert {path.name for path in GOLDEN.iterdir()} <= names
