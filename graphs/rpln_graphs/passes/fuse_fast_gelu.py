"""Gelu(x + bias, approximate = tanh) -> FastGelu(x, bias): the approximation by tanh, with a bias where there is one.

Rules:
1. Before opset 20 torch writes the gelu out: 0.5 x (1 + Tanh(sqrt(2 / pi) (x + 0.044715 x^3))).
2. The constants of one written out must be these numbers, rounded to the graph's type.

onnxscript's rule (ort_fusions.gelu) knows the constants in fp32 only, and leaves a bias outside.
"""

import math
from typing import Any, ClassVar, Final

import onnx_ir as ir
from onnxscript.rewriter import pattern

from rpln_graphs.rewriting.fusing import DOMAIN, rule
from rpln_graphs.rewriting.gelus import GeluPass, gelu_obstacle
from rpln_graphs.rewriting.traits import TANH_GELU, GraphTraits

NUMBERS: Final = {"three": 3.0, "cubic": 0.044715, "slope": math.sqrt(2 / math.pi), "one": 1.0, "half": 0.5}
"""The constants of a gelu written out, by their names in the pattern (rule 2)."""


class FuseFastGelu(GeluPass):
    """A pass that fuses approximate gelus, with a bias if there is one. It counts those in feed-forward blocks."""

    approximate: ClassVar[str] = "tanh"
    heart: ClassVar[str] = "Tanh"

    def rules(self) -> pattern.RewriteRuleSet:
        return _RULES

    def formula(self, traits: GraphTraits) -> int:
        """Return one for each layer if this gelu is the activation. A head's gelu is always exact."""
        return traits.layers if TANH_GELU in traits.features else 0


def _gelu(op: Any, x: Any) -> Any:
    return op.Gelu(x, _outputs=["gelu"])


def _biased(op: Any, x: Any, bias: Any) -> Any:
    return _gelu(op, op.Add(x, bias))


def _written_out(op: Any, x: Any, three: Any, cubic: Any, slope: Any, one: Any, half: Any) -> Any:  # rule 1
    tanh = op.Tanh(op.Mul(slope, op.Add(x, op.Mul(cubic, op.Pow(x, three)))))
    return op.Mul(x, op.Mul(half, op.Add(tanh, one)), _outputs=["gelu"])


def _biased_written_out(op: Any, x: Any, bias: Any, three: Any, cubic: Any, slope: Any, one: Any, half: Any) -> Any:
    return _written_out(op, op.Add(x, bias), three, cubic, slope, one, half)


def _obstacle(*, gelu: ir.Value, x: ir.Value, bias: ir.Value | None = None, **constants: ir.Value) -> str | None:
    return gelu_obstacle(gelu, x, bias, approximate="tanh", constants=constants, numbers=NUMBERS)


def _rewrite(op: Any, *, x: ir.Value, bias: ir.Value | None = None, **_: ir.Value) -> ir.Value:
    fused: ir.Value = op.FastGelu(*((x,) if bias is None else (x, bias)), _domain=DOMAIN)
    return fused


_RULES: Final = pattern.RewriteRuleSet(
    [
        *rule("gelu and its bias", _biased, _rewrite, _obstacle).commute(),
        rule("gelu written out, and its bias", _biased_written_out, _rewrite, _obstacle),
        rule("gelu", _gelu, _rewrite, _obstacle),
        rule("gelu written out", _written_out, _rewrite, _obstacle),
    ]
)
