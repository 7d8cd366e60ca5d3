"""What every pass shares: it rewrites an onnx_ir model in place and says how many places it changed.

A pass is one idea in one file, its first line says before -> after, and it holds no state: what it needs it gets from
`configure`, what it found it returns as a count.
"""

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, Self

import onnx_ir as ir

FLOAT16_MAX: Final = 65504.0
HEADROOM: Final = 8.0
"""Calibration data are not the user's data: values may grow by this factor before they overflow."""
SAFE_FLOAT16: Final = FLOAT16_MAX / HEADROOM

Ranges = Mapping[str, float]
"""Largest magnitude of each float value and initializer of a graph, by name, over calibration data and stress set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What the formulas for expected counts depend on."""

    layers: int
    cross_attention: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a pass may be configured by. `ranges` is filled only for passes that say they are `calibrated`."""

    dtype: ir.DataType = ir.DataType.FLOAT
    io_dtype: ir.DataType = ir.DataType.FLOAT
    ranges: Ranges = field(default_factory=dict)


class CountingPass(ir.passes.InPlacePass, abc.ABC):
    """A pass whose number of rewrites is known afterwards, and, where it has a formula, beforehand."""

    calibrated: ClassVar[bool] = False

    @classmethod
    def configure(cls, model: ir.Model, context: Context) -> Self:
        """Make the pass for one export of `model`."""
        return cls()

    @abc.abstractmethod
    def rewrite(self, model: ir.Model) -> int:
        """Change `model` in place and return in how many places."""

    def expected(self, network: Network) -> int | None:
        """How many rewrites a graph of this network must take; None where that depends on more than the network."""
        return None

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        count = self.rewrite(model)
        model.metadata_props[COUNT_PREFIX + type(self).__name__] = str(count)
        return ir.passes.PassResult(model, modified=count > 0)


COUNT_PREFIX = "rpln.pass."


def counts_from_model(model: ir.Model) -> dict[str, int]:
    """The passes applied to `model` with their counts, in order of application."""
    return {
        key.removeprefix(COUNT_PREFIX): int(value)
        for key, value in model.metadata_props.items()
        if key.startswith(COUNT_PREFIX)
    }


def residual_norms(model: ir.Model) -> dict[str, ir.Node]:
    """The LayerNormalization nodes that read the residual stream, in order, by the module each belongs to.

    The module is read off the scale's name; the embeddings' own LayerNorm and the LM head's read something else.
    """
    norms: dict[str, ir.Node] = {}
    for node in model.graph:
        if node.op_type == "LayerNormalization":
            scale = node.inputs[1]
            assert scale is not None and scale.name is not None
            norms[scale.name.removesuffix(".weight")] = node
    return {
        module: node for module, node in norms.items() if module not in {"embeddings.LayerNorm", "lm_head.layer_norm"}
    }
