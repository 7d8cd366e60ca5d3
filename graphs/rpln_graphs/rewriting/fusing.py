"""Fusions into the operators that ONNX Runtime adds to ONNX's, in the domain com.microsoft, by onnxscript's rules."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, Final

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.rewriter import RULE_NAME_TAG, pattern

from rpln_graphs.rewriting.base import ExplainingPass, Refusal, refused

DOMAIN: Final = "com.microsoft"
FLOATS: Final = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
NO_PATTERN: Final = "none of the pass's patterns comes near it"

TIDYING: Final = (
    common.CommonSubexpressionEliminationPass(),
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    common.RemoveUnusedNodesPass(),
)
"""Passes that merge what a rule made anew for every match."""


class FusingPass(ExplainingPass):
    """A pass that applies rewrite rules, and gives the reason for every node of type `anchor` that is left."""

    anchor: ClassVar[str]

    @abc.abstractmethod
    def rules(self) -> pattern.RewriteRuleSet:
        """Return the rules, made by `rule`."""

    def rewrite(self, model: ir.Model) -> int:
        """Apply the rules, tidy the graph, record the refusals, and return the count.

        A new node has the name of its first output.
        """
        count = self.rules().apply_to_model(model)
        for node in model.graph:
            fused = node.metadata_props.pop(RULE_NAME_TAG, None)
            if fused or not node.name:
                node.name = node.outputs[0].name
            if fused:
                _leave_out_unread(node)
        self.record(model, self.refusals(model))
        if count:
            for tidy in TIDYING:
                tidy(model)
            model.graph.sort()
        return count

    def refusals(self, model: ir.Model) -> list[Refusal]:
        """Return each anchor that is left in `model`, with the reason of the rule that came nearest."""
        left = [node for node in model.graph if node.op_type == self.anchor]
        tracer = _Reasons()
        if left:
            self.rules().apply_to_model(model, tracer=tracer)
        return [refused(node, tracer.reasons.get(node, NO_PATTERN)) for node in left]


def rule(
    name: str,
    target: Callable[..., Any],
    rewrite: Callable[..., Any],
    obstacle: Callable[..., str | None],
) -> pattern.RewriteRule:
    """Return onnxscript's rule that replaces `target` by `rewrite`.

    `obstacle` and `rewrite` get the matched values by the names that `target` gave them. `obstacle` returns the reason
    why the match must not be replaced, or None.
    """

    def check(_context: Any, **matched: Any) -> pattern.MatchResult:
        result, reason = pattern.MatchResult(), obstacle(**matched)
        return result if reason is None else result.fail(reason)

    return pattern.RewriteRule(target, rewrite, check, name=name)


class _Reasons(pattern.MatchingTracer):
    """A tracer that keeps a reason for each node: why the attempt that matched most of the nodes around it failed."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: dict[ir.Node, str] = {}
        self._scores: dict[ir.Node, tuple[bool, int]] = {}

    def log(self, rule, container, node, match_result, status) -> None:  # type: ignore[no-untyped-def]  # onnxscript's
        """Note the outcome of one attempt."""
        score = (status != pattern.MatchStatus.NO_MATCH, len(match_result.nodes))
        for passed in {node, *match_result.nodes}:
            if score >= self._scores.get(passed, (False, 0)):
                self._scores[passed] = score
                self.reasons[passed] = match_result.reason or f"{rule.name} does not match"


def _leave_out_unread(node: ir.Node) -> None:
    """Leave out the outputs that nothing reads, so that the kernel need not compute them."""
    read = [place for place, output in enumerate(node.outputs) if output.uses() or output.is_graph_output()]
    node.resize_outputs(max(read, default=0) + 1)
    for place, output in enumerate(node.outputs):
        if place not in read:
            output.name = ""
