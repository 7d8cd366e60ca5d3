"""Calibration measures the largest values of a graph."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rpln_graphs.calibrate import measure_ranges
from rpln_graphs.errors import GraphError
from tests.graphs.conftest import Traced
from tests.graphs.text_graphs import Arrays, model_from_text, operators

SMALL = """
small (int64[rows] ids, float[rows, 2] x) => (float[rows, 2] y)
<float[3, 2] table = {0.1, 1, -7, 3, 4, 5}, float[2] scale = {2, -0.5}, int64[1] axis = {1}>
{
    embedded = Gather(table, ids)
    scaled = Mul(x, scale)
    total = Add(embedded, scaled)
    peak = ReduceMax<keepdims = 1>(total, axis)
    y = Sub(total, peak)
}
"""


def batches(count: int) -> list[Arrays]:
    rng = np.random.default_rng(0)
    return [
        {"ids": rng.integers(0, 3, rows), "x": rng.standard_normal((rows, 2)).astype(np.float32)}
        for rows in range(1, count + 1)
    ]


def test_equals_maxima_computed_by_hand() -> None:
    table = np.array([[0.1, 1], [-7, 3], [4, 5]], dtype=np.float32)
    scale = np.array([2, -0.5], dtype=np.float32)
    expected: dict[str, float] = {"table": 7.0, "scale": 2.0}
    for feeds in batches(4):
        embedded, scaled = table[feeds["ids"]], feeds["x"] * scale
        total = embedded + scaled
        peak = total.max(axis=1, keepdims=True)
        values = {
            "x": feeds["x"],
            "embedded": embedded,
            "scaled": scaled,
            "total": total,
            "peak": peak,
            "y": total - peak,
        }
        for name, array in values.items():
            expected[name] = max(expected.get(name, 0.0), float(np.abs(array).max()))

    assert measure_ranges(model_from_text(SMALL), batches(4)) == pytest.approx(expected, rel=1e-6)


def test_values_that_no_batch_reaches_count_nothing() -> None:
    assert measure_ranges(model_from_text(SMALL), []) == {"table": 7.0, "scale": 2.0}


def test_the_model_stays_as_it_is() -> None:
    model = model_from_text(SMALL)
    measure_ranges(model, batches(1))

    assert operators(model) == ["Gather", "Mul", "Add", "ReduceMax", "Sub"]
    assert [value.name for value in model.graph.outputs] == ["y"]


def test_equals_what_hooks_see_in_torch(traced: Traced) -> None:
    network = traced("token-classification")
    cases = network.stress_cases()
    seen: dict[str, float] = {}

    def watch(name: str, module: nn.Module) -> None:
        def look(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = max(seen.get(name, 0.0), float(output.abs().max()))

        hooks.append(module.register_forward_hook(look))

    hooks: list[torch.utils.hooks.RemovableHandle] = []
    for path, module in network.model.named_modules():
        name = path.removeprefix("roberta_prelayernorm.")
        if isinstance(module, nn.LayerNorm):
            watch(f"{name}.LayerNormalization", module)
        elif isinstance(module, nn.Linear) and name != "classifier":
            watch(f"{name}.Add", module)
    for case in cases:
        network.eager(case.feeds)
    for hook in hooks:
        hook.remove()

    ranges = measure_ranges(network.graph, [case.feeds for case in cases])
    assert len(seen) == 1 + 2 * (6 + 2) + 1  # embeddings, two layers, final LayerNorm
    assert {name: ranges[name] for name in seen} == pytest.approx(seen, rel=1e-5)


APPENDED = """
g (float[rows, past, 2] past, float[rows, new, 2] x) => (float[rows, total, 2] present, float[rows, past, 2] halved)
<float half = {0.5}>
{
    present = Concat<axis = 1>(past, x)
    halved = Mul(past, half)
}
"""


def appended(*, past: int, peak: float) -> Arrays:
    arrays: Arrays = {
        "past": np.full((2, past, 2), -3 * peak, dtype=np.float32),
        "x": np.full((2, 1, 2), peak, dtype=np.float32),
    }
    return arrays


def test_an_empty_past_reaches_nothing() -> None:
    ranges = measure_ranges(model_from_text(APPENDED), [appended(past=0, peak=4.0)])

    assert ranges == {"half": 0.5, "past": 0.0, "halved": 0.0, "x": 4.0, "present": 4.0}


def test_an_empty_past_hides_no_other() -> None:
    batches = [appended(past=length, peak=4.0) for length in (0, 2, 0)]

    ranges = measure_ranges(model_from_text(APPENDED), batches)
    assert ranges == {"half": 0.5, "past": 12.0, "halved": 6.0, "x": 4.0, "present": 12.0}


def test_a_value_that_is_not_finite_is_named() -> None:
    model = model_from_text("g (float[n] x) => (float[n] y) { doubled = Add(x, x)  y = Relu(doubled) }")

    with pytest.raises(GraphError, match=r"doubled .*inf"):
        measure_ranges(model, [{"x": np.array([3e38], dtype=np.float32)}])
