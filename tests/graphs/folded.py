"""Helpers for tests of folding passes: how far a rewritten graph is from the original, and from eager torch."""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from rpln_graphs.rewriting.base import Context, CountingPass, counts_from_model, refusals_from_model
from tests.graphs.networks import Network, copied
from tests.graphs.text_graphs import Arrays, run, runner


def apply(model: ir.Model, *kinds: type[CountingPass]) -> dict[str, int]:
    """Run the passes on `model` in place, and return how often each changed it."""
    for kind in kinds:
        kind.configure(model, Context())(model)
    counts = counts_from_model(model)
    return {kind.__name__: counts[kind.__name__] for kind in kinds}


def applied(model: ir.Model, *kinds: type[CountingPass]) -> ir.Model:
    """Return a copy of `model` after the passes."""
    copy = copied(model)
    apply(copy, *kinds)
    return copy


def refused(model: ir.Model, kind: type[CountingPass]) -> dict[str, str]:
    """Return the nodes that a pass left as they were, with its reasons."""
    return {refusal.node: refusal.reason for refusal in refusals_from_model(model)[kind.__name__]}


def change(before: ir.Model, after: ir.Model, feeds: Arrays) -> float:
    """Return the largest difference of any output between two graphs."""
    return _largest(run(before, feeds), run(after, feeds))


def distance(network: Network, graph: ir.Model) -> float:
    """Return the largest difference of any output from eager torch over the stress set.

    It is relative to the largest value of the output, or to 1 if that is less.
    """
    compute = runner(graph)
    return max(_largest(network.eager(case.feeds), compute(case.feeds)) for case in network.stress_cases())


def _largest(expected: Arrays, found: Arrays) -> float:
    assert expected.keys() == found.keys()
    return max(_differences(expected, found))


def _differences(expected: Arrays, found: Arrays) -> Iterable[float]:
    for name, array in expected.items():
        assert array.shape == found[name].shape, name
        reach = max(1.0, float(np.abs(array).max(initial=0.0)))
        yield float(np.abs(found[name] - array).max(initial=0.0)) / reach
