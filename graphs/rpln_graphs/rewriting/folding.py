"""Folds: passes that visit nodes one by one, and change the weights around each or say why not."""

import abc
from collections.abc import Iterable

import onnx_ir as ir

from rpln_graphs.rewriting.base import ExplainingPass, refused


class FoldingPass(ExplainingPass):
    """A pass that folds its candidates one by one, and counts those for which `counts` holds."""

    @abc.abstractmethod
    def candidates(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the nodes that the pass tries to fold."""

    @abc.abstractmethod
    def fold(self, node: ir.Node) -> str | None:
        """Change the graph around `node` and return None, or leave the graph as it is and return the reason."""

    def counts(self, node: ir.Node) -> bool:
        """Return whether the formula counts `node`; asked before the node is folded."""
        return True

    def rewrite(self, model: ir.Model) -> int:
        folded, refusals = 0, []
        for node in list(self.candidates(model)):
            counts = self.counts(node)
            reason = self.fold(node)
            if reason is None:
                folded += counts
            else:
                refusals.append(refused(node, reason))
        self.record(model, refusals)
        return folded


def drop(node: ir.Node, kept: ir.Value) -> None:
    """Remove `node` and the constants that only it read; the readers of its only output read `kept` instead."""
    graph, constants = node.graph, {value for value in node.inputs if value is not None and value.is_initializer()}
    assert isinstance(graph, ir.Graph)
    ir.convenience.replace_all_uses_with(node.outputs[0], kept)
    graph.remove(node, safe=True)
    for value in constants:
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[value.name or ""]
