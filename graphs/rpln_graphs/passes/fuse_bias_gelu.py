"""Gelu(x + bias) -> BiasGelu(x, bias): the exact gelu behind a projection, with the projection's bias.

Rules:
1. Before opset 20 torch writes the gelu out: x (0.5 (Erf(x / sqrt 2) + 1)).
2. The constants of one written out must be these numbers, rounded to the graph's type.

onnxscript's rules (ort_fusions.bias_gelu, erfgelu) accept a bias of length 1, and know the constants in fp32 only.
"""

import math
from typing import Any, ClassVar, Final

import onnx_ir as ir
from onnxscript.rewriter import pattern

from rpln_graphs.rewriting.fusing import DOMAIN, rule
from rpln_graphs.rewriting.gelus import GeluPass, gelu_obstacle
from rpln_graphs.rewriting.traits import GELU_HEAD, OTHER_ACTIVATION, TANH_GELU, GraphTraits

NUMBERS: Final = {"root": math.sqrt(2), "one": 1.0, "half": 0.5}
"""The constants of a gelu written out, by their names in the pattern (rule 2)."""


class FuseBiasGelu(GeluPass):
    """A pass that fuses exact gelus with their bias. It counts those in feed-forward blocks and in a head."""

    approximate: ClassVar[str] = "none"
    heart: ClassVar[str] = "Erf"

    def rules(self) -> pattern.RewriteRuleSet:
        return _RULES

    def formula(self, traits: GraphTraits) -> int:
        """Return one for each layer, unless the activation is another, and one for a head that predicts tokens."""
        layers = 0 if traits.features.intersection({OTHER_ACTIVATION, TANH_GELU}) else traits.layers
        return layers + (1 if GELU_HEAD in traits.features else 0)


def _gelu(op: Any, x: Any, bias: Any) -> Any:
    return op.Gelu(op.Add(x, bias), _outputs=["gelu"])


def _written_out(op: Any, x: Any, bias: Any, root: Any, one: Any, half: Any) -> Any:  # rule 1
    total = op.Add(x, bias)
    return op.Mul(total, op.Mul(half, op.Add(op.Erf(op.Div(total, root)), one)), _outputs=["gelu"])


def _obstacle(*, gelu: ir.Value, x: ir.Value, bias: ir.Value, **constants: ir.Value) -> str | None:
    return gelu_obstacle(gelu, x, bias, approximate="none", constants=constants, numbers=NUMBERS)


def _rewrite(op: Any, *, x: ir.Value, bias: ir.Value, **_: ir.Value) -> ir.Value:
    fused: ir.Value = op.BiasGelu(x, bias, _domain=DOMAIN)
    return fused


_RULES: Final = pattern.RewriteRuleSet(
    [
        *rule("gelu and its bias", _gelu, _rewrite, _obstacle).commute(),
        rule("gelu written out, and its bias", _written_out, _rewrite, _obstacle),
    ]
)
