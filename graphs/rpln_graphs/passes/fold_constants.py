"""Constants, shape arithmetic, Identity, common subexpressions, dead code -> none: all of it is computed at export.

onnxscript's folding and rewrite rules and onnx_ir's common passes do all of it. Two things are kept from them:

1. Weights. TransposeWeights has transposed most; those that it left have other readers, and would be stored twice.
2. Equal initializers. Later passes may scale them differently.
"""

from collections.abc import Sequence
from typing import Final

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer, rewriter
from onnxscript.rewriter.rules.common import slice_split_rule

from rpln_graphs.rewriting.base import CountingPass

ROUNDS = 2
"""The rounds of folding and rewriting, which enable each other. A third round changes no graph of this family."""

QUICK_RULES: Final = [rule for rule in rewriter._DEFAULT_REWRITE_RULES if rule is not slice_split_rule]  # noqa: SLF001 # no public name
"""onnxscript's own choice without the rule two Slices -> Split, which takes a second for each layer.

That rule compares every node with every other.
"""


class FoldConstants(CountingPass):
    """A pass that computes what is constant in a graph. It counts the nodes that it removed."""

    def rewrite(self, model: ir.Model) -> int:
        before = len(model.graph)
        common.InlinePass()(model)
        for _ in range(ROUNDS):
            optimizer.fold_constants(model, onnx_shape_inference=True, should_fold=_may_be_folded)
            rewriter.rewrite(model, _rules(model.graph))
        for tidy in (  # without DeduplicateInitializersPass (rule 2)
            common.IdentityEliminationPass(),
            common.RemoveUnusedNodesPass(),
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            common.CommonSubexpressionEliminationPass(),
            common.RemoveUnusedNodesPass(),
            common.OutputFixPass(),
        ):
            tidy(model)
        return before - len(model.graph)


def _rules(graph: ir.Graph) -> Sequence[rewriter.RewriteRule] | None:
    """Return `QUICK_RULES`, or None for onnxscript's own choice where two nodes slice one value."""
    sliced = [node.inputs[0] for node in graph if node.op_type == "Slice"]
    return QUICK_RULES if len(sliced) == len(set(sliced)) else None


def _may_be_folded(node: ir.Node) -> bool | None:
    """Return False for the Transpose of a weight with other readers (rule 1); None lets onnxscript decide."""
    weight = node.inputs[0] if node.op_type == "Transpose" else None
    return False if weight is not None and weight.is_initializer() and len(weight.uses()) > 1 else None
