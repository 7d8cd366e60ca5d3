"""Helpers for tests of fused operators: graphs of every task, and a check that a pass keeps what they compute."""

from collections.abc import Callable, Iterable
from functools import cache

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.testing import assert_allclose

from rpln_graphs.rewriting.base import Context, CountingPass, counts_from_model, refusals_from_model
from rpln_graphs.stress import Case
from rpln_runtime.tasks import TASKS
from tests.graphs.networks import Network, copied, trace_task
from tests.graphs.text_graphs import Arrays, runner

TOLERANCE = 1e-5
LAYERS = 2
GRAPHS = [
    (task.name, variant)
    for task in TASKS.values()
    for variant in (*task.variants, *task.encoders[:1])
    if variant != "decode"  # the same as with-past
]
"""Each graph of each task."""


@cache
def traced(task: str, variant: str = "full", *outputs: str) -> Network:
    """Return a graph of a tiny network of two layers. Tests may only change a copy."""
    return trace_task(task, variant=variant, outputs=outputs)


def applied(graph: ir.Model, *passes: type[CountingPass]) -> ir.Model:
    """Return a copy of `graph` after the passes."""
    copy = copied(graph)
    for kind in passes:
        kind.configure(copy, Context())(copy)
    return copy


def count(graph: ir.Model, kind: type[CountingPass]) -> int:
    """Return how often the pass changed the graph."""
    return counts_from_model(graph)[kind.__name__]


def reasons(graph: ir.Model, kind: type[CountingPass]) -> list[str]:
    """Return why the pass left nodes as they were."""
    return [refusal.reason for refusal in refusals_from_model(graph)[kind.__name__]]


def assert_computes_the_same(network: Network, graph: ir.Model, *, tolerance: float = TOLERANCE) -> None:
    """Check that `graph` gives, optimized or not, what the traced graph and eager torch give over the stress set."""
    plain, written, optimized = runner(network.graph), runner(graph), optimized_runner(graph)
    for case in every_mask(network.stress_cases()):
        expected = plain(case.feeds)
        for compute in (written, optimized):
            assert_close(compute(case.feeds), expected, tolerance=tolerance, case=case)
    last = network.stress_cases()[-2]
    assert_close(written(last.feeds), network.eager(last.feeds), tolerance=1e-4, case=last)


def assert_close(found: Arrays, expected: Arrays, *, tolerance: float, case: Case) -> None:
    """Check that every output is within `tolerance`, relative to its largest value if that is more than 1."""
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        largest = max(1.0, float(np.abs(array).max(initial=0)))
        assert_allclose(found[name], array, rtol=0, atol=tolerance * largest, err_msg=f"{name}, {case.name}")


def every_mask(cases: Iterable[Case]) -> list[Case]:
    """Return of the stress set each kind of mask on two texts (or two texts of three choices), and a single token."""
    return [case for case in cases if case.mask.shape in {(1, 1), (2, 5), (6, 5)}]


def optimized_runner(model: ir.Model) -> Callable[[Arrays], Arrays]:
    """Return a session with all of ONNX Runtime's own optimizations, as the runtime has it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, ["CPUExecutionProvider"])
    names = [value.name or "" for value in model.graph.outputs]
    return lambda feeds: dict(zip(names, session.run(None, feeds), strict=True))
