"""What folds share: they go over nodes, and change the weights around each or say why not."""

import abc
from collections.abc import Iterable

import onnx_ir as ir

from rpln_graphs.rewriting.base import ExplainingPass, Refusal


class FoldingPass(ExplainingPass):
    """Counts the nodes folded, those that `counts` leaves out aside."""

    @abc.abstractmethod
    def candidates(self, model: ir.Model) -> Iterable[ir.Node]:
        """The nodes that the pass is about."""

    @abc.abstractmethod
    def fold(self, node: ir.Node) -> str | None:
        """Change the graph around `node`; or leave it as it is, and return the reason."""

    def counts(self, node: ir.Node) -> bool:
        """Whether `node` is one of those that the formula is about; asked before it is folded."""
        return True

    def rewrite(self, model: ir.Model) -> int:
        """Fold what can be, record what was refused."""
        folded, refusals = 0, []
        for node in list(self.candidates(model)):
            counts = self.counts(node)
            reason = self.fold(node)
            if reason is None:
                folded += counts
            else:
                refusals.append(Refusal(node=node.name or "", reason=reason))
        self.record(model, refusals)
        return folded


def drop(node: ir.Node, kept: ir.Value) -> None:
    """Let all who read the only output of `node` read `kept`, and remove it, with constants that only it read."""
    graph, constants = node.graph, {value for value in node.inputs if value is not None and value.is_initializer()}
    assert isinstance(graph, ir.Graph)
    ir.convenience.replace_all_uses_with(node.outputs[0], kept)
    graph.remove(node, safe=True)
    for value in constants:
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[value.name or ""]
