"""Gelu(x + bias) -> BiasGelu(x, bias): the exact gelu behind a projection, with the projection's bias.

Before opset 20 torch writes x (0.5 (Erf(x / sqrt 2) + 1)) out. onnxscript's rules (ort_fusions.bias_gelu, erfgelu) fall
short: a bias of length 1 passes for one, and constants are known in fp32 only.
"""

import math
from typing import Any, ClassVar, Final

import onnx_ir as ir
from onnxscript.rewriter import pattern

from rpln_graphs.rewriting.base import GELU_HEAD, OTHER_ACTIVATION, TANH_GELU, GraphTraits
from rpln_graphs.rewriting.contrib import DOMAIN
from rpln_graphs.rewriting.gelus import GeluPass, check_gelu

CONSTANTS: Final = {"root": math.sqrt(2), "one": 1.0, "half": 0.5}


class FuseBiasGelu(GeluPass):
    """Counts the feed-forward blocks, and the head that has a gelu."""

    approximate: ClassVar[str] = "none"
    heart: ClassVar[str] = "Erf"

    def rules(self) -> pattern.RewriteRuleSet:
        return _RULES

    def formula(self, traits: GraphTraits) -> int:
        """One in each layer, unless another function is there, and one in a head that predicts tokens."""
        layers = 0 if traits.features.intersection({OTHER_ACTIVATION, TANH_GELU}) else traits.layers
        return layers + (1 if GELU_HEAD in traits.features else 0)


def _check(_context: Any, **match: Any) -> pattern.MatchResult:
    return check_gelu(match, approximate="none", constants=CONSTANTS)


def _rewrite(op: Any, **match: Any) -> ir.Value:
    fused: ir.Value = op.BiasGelu(match["x"], match["bias"], _domain=DOMAIN)
    return fused


def _gelu(op: Any, x: Any, bias: Any) -> Any:
    return op.Gelu(op.Add(x, bias), _outputs=["gelu"])


def _written_out(op: Any, x: Any, bias: Any, root: Any, one: Any, half: Any) -> Any:  # noqa: PLR0917 - names to bind
    total = op.Add(x, bias)
    return op.Mul(total, op.Mul(half, op.Add(op.Erf(op.Div(total, root)), one)), _outputs=["gelu"])


_RULES: Final = pattern.RewriteRuleSet(
    [
        *pattern.RewriteRule(_gelu, _rewrite, _check, name="gelu and its bias").commute(),
        pattern.RewriteRule(_written_out, _rewrite, _check, name="gelu written out, and its bias"),
    ]
)
