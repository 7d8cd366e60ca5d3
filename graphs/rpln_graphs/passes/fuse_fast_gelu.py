"""Gelu(x + bias, approximate = tanh) -> FastGelu(x, bias): the approximation by tanh, with a bias where there is one.

Before opset 20 torch writes 0.5 x (1 + Tanh(sqrt(2 / pi) (x + 0.044715 x^3))) out. onnxscript's rule for that
(ort_fusions.gelu) knows fp32's constants only, and leaves a bias outside.
"""

import math
from typing import Any, ClassVar, Final

import onnx_ir as ir
from onnxscript.rewriter import pattern

from rpln_graphs.rewriting.base import TANH_GELU, GraphTraits
from rpln_graphs.rewriting.contrib import DOMAIN
from rpln_graphs.rewriting.gelus import GeluPass, check_gelu

CONSTANTS: Final = {"three": 3.0, "cubic": 0.044715, "slope": math.sqrt(2 / math.pi), "one": 1.0, "half": 0.5}


class FuseFastGelu(GeluPass):
    """Counts the feed-forward blocks."""

    approximate: ClassVar[str] = "tanh"
    heart: ClassVar[str] = "Tanh"

    def rules(self) -> pattern.RewriteRuleSet:
        return _RULES

    def formula(self, traits: GraphTraits) -> int:
        """One in each layer, if that is the activation; a head's gelu is exact."""
        return traits.layers if TANH_GELU in traits.features else 0


def _check(_context: Any, **match: Any) -> pattern.MatchResult:
    return check_gelu(match, approximate="tanh", constants=CONSTANTS)


def _rewrite(op: Any, **match: Any) -> ir.Value:
    bias = match.get("bias")
    fused: ir.Value = op.FastGelu(match["x"], *(() if bias is None else (bias,)), _domain=DOMAIN)
    return fused


def _gelu(op: Any, x: Any) -> Any:
    return op.Gelu(x, _outputs=["gelu"])


def _biased(op: Any, x: Any, bias: Any) -> Any:
    return _gelu(op, op.Add(x, bias))


def _written_out(op: Any, x: Any, three: Any, cubic: Any, slope: Any, one: Any, half: Any) -> Any:  # noqa: PLR0917 - names to bind
    tanh = op.Tanh(op.Mul(slope, op.Add(x, op.Mul(cubic, op.Pow(x, three)))))
    return op.Mul(x, op.Mul(half, op.Add(tanh, one)), _outputs=["gelu"])


def _biased_written_out(op: Any, x: Any, bias: Any, three: Any, cubic: Any, slope: Any, one: Any, half: Any) -> Any:  # noqa: PLR0917 - names to bind
    return _written_out(op, op.Add(x, bias), three, cubic, slope, one, half)


_RULES: Final = pattern.RewriteRuleSet(
    [
        *pattern.RewriteRule(_biased, _rewrite, _check, name="gelu and its bias").commute(),
        pattern.RewriteRule(_biased_written_out, _rewrite, _check, name="gelu written out, and its bias"),
        pattern.RewriteRule(_gelu, _rewrite, _check, name="gelu"),
        pattern.RewriteRule(_written_out, _rewrite, _check, name="gelu written out"),
    ]
)
